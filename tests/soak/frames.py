"""WebSockets of the soak: frames that come back as they were sent, and a secret among them."""

from __future__ import annotations

import struct
from asyncio import StreamReader, StreamWriter
from typing import TYPE_CHECKING

from tests.support.upstream import Received
from tests.support.websocket import ACCEPT, KEY, accepted, client_frame, server_frame

if TYPE_CHECKING:
    from tests.soak.agents import Agents

TEXT, CLOSE = 1, 8
GOODBYE = struct.pack("!H", 1000)
MESSAGES = 10
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)


async def answer_frames(received: Received, reader: StreamReader, writer: StreamWriter) -> None:
    """Say who is asking, credential and all; then send back every message until the goodbye."""
    writer.write(accepted())
    writer.write(server_frame((received.header("x-search-key") or "nobody").encode(), TEXT))
    opcode = TEXT
    while opcode != CLOSE:
        first, length = await reader.readexactly(2)
        opcode, mask = first & 0x0F, await reader.readexactly(4)
        masked = await reader.readexactly(length & 0x7F)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
        writer.write(server_frame(payload, opcode))
    await writer.drain()
    writer.close()


async def converse_in_frames(agents: Agents) -> None:
    """Open a WebSocket, say something, and part in good order."""
    host = agents.random.choice(("search.example", "files.example"))
    key = (agents.keys[host],) if host in agents.keys else ()
    wire = await agents.tunnel(host)
    entry = agents.ledger.open("websocket")
    await wire.send(agents.head("GET", host, f"/soak/frames/{entry.mark}", *HANDSHAKE, *key))
    answer = await wire.read_head()
    agents.note(entry, answer)
    if answer.header("sec-websocket-accept") != ACCEPT:
        entry.failure = f"no WebSocket: {answer.status}"
        return
    known = agents.stage.placeholders["search"] if key else "nobody"
    heard = [await _read_payload(wire.reader)]
    said = [f"{entry.mark} {number}".encode() for number in range(MESSAGES)]
    for message in said:
        await wire.send(client_frame(message, TEXT))
        heard.append(await _read_payload(wire.reader))
    await wire.send(client_frame(GOODBYE, CLOSE))
    heard.append(await _read_payload(wire.reader))
    if heard != [known.encode(), *said, GOODBYE]:
        entry.failure = f"other messages than were sent: {heard!r}"
    await wire.close()


async def _read_payload(reader: StreamReader) -> bytes:
    _, length = await reader.readexactly(2)
    return await reader.readexactly(length)
