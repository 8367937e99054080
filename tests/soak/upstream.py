"""The upstreams of a soak: what the path asks for happens, good or bad; nothing is kept.

Each looks at every byte that it gets: at most the host's own secret may be there, a placeholder
never.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256

import trustme
from tests.clients.model_apis import ModelApi, anthropic_api, openai_api
from tests.soak.frames import answer_frames
from tests.soak.ledger import Entry, Ledger, bytes_of
from tests.support.upstream import Received

READ_BYTES = 1 << 16
SSE_EVENTS = 20
SSE_PAUSE_SECONDS = 0.02
SLOW_PIECES = 8
SLOW_PAUSE_SECONDS = 0.05
CRLF2 = b"\r\n\r\n"

type Handler = Callable[[Received, StreamReader, StreamWriter, Entry], Awaitable[None]]


class Upstreams:
    """Listeners for every host. ``forbidden`` are byte strings that no upstream may ever get."""

    def __init__(self, ca: trustme.CA, ledger: Ledger, marker: bytes) -> None:
        self.ca = ca
        self.ledger = ledger
        self.marker = marker
        """What every real secret begins with."""
        self.placeholders: list[bytes] = []
        self.credentials: dict[str, set[str]] = {}
        """Host → every value that its credential has had; none for a host without one."""
        self.backends: dict[str, Handler] = {}
        """Hosts that are more than paths."""
        self.seen: dict[str, asyncio.Event] = {}
        """Set when the request with a mark has arrived; made by who waits."""
        self.ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self._writers: set[StreamWriter] = set()

    async def start(self, host: str, certificate_for: str | None = None) -> None:
        """Listen for ``host`` on any free port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(certificate_for or host).configure_cert(context)

        async def accept(reader: StreamReader, writer: StreamWriter) -> None:
            await self._accept(host, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context, backlog=512)
        self._servers.append(server)
        self.ports[host] = server.sockets[0].getsockname()[1]

    def close_connections(self) -> None:
        """Close every open connection, so that nothing of the load is left in the proxy."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.close_connections()

    async def _accept(self, host: str, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(CRLF2)
                received = Received(head, b"", 0)
                self._inspect(host, received)
                entry = self.ledger.note_seen(received.target, host)
                if entry is None:
                    return
                if (event := self.seen.get(entry.mark)) is not None:
                    event.set()
                handler = self.backends.get(host, _serve)
                await handler(received, reader, writer, entry)
                await writer.drain()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()

    def _inspect(self, host: str, received: Received) -> None:
        head, offences = received.raw_head, self.ledger.offences
        offences += [f"{host} got a placeholder" for p in self.placeholders if p in head]
        good = self.credentials.get(host)
        found = [received.header("x-search-key"), received.header("x-api-key")]
        found += [(received.header("authorization") or "").removeprefix("Bearer ") or None]
        shown = [value for value in found if value is not None]
        if good is None:
            if shown or self.marker in head:
                offences.append(f"{host} got a credential, and has none")
        elif len(shown) > 1 or not set(shown) <= good or head.count(self.marker) > len(shown):
            offences.append(f"{host} got another credential than its own")

    def look_at_body(self, host: str, body: bytes) -> None:
        """For bodies that are not checked byte by byte."""
        if any(placeholder in body for placeholder in self.placeholders):
            self.ledger.offences.append(f"{host} got a placeholder in a body")
        if self.marker in body:
            self.ledger.offences.append(f"{host} got a secret in a body")


async def read_body(received: Received, reader: StreamReader) -> bytes:
    """A whole body, kept: for small ones."""
    body = bytearray()
    async for piece in _pieces(received, reader):
        body += piece
    return bytes(body)


async def _pieces(received: Received, reader: StreamReader) -> AsyncIterator[bytes]:
    if "chunked" in (received.header("transfer-encoding") or ""):
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return
    left = int(received.header("content-length") or 0)
    while left:
        piece = await reader.read(min(left, READ_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


def write_answer(
    writer: StreamWriter, body: bytes, status: str = "200 OK", kind: str = "text/plain"
) -> None:
    """A whole answer."""
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def reset(writer: StreamWriter) -> None:
    """Close with RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _serve(
    received: Received, reader: StreamReader, writer: StreamWriter, entry: Entry
) -> None:
    """``/soak/WHAT/MARK/NUMBER``: do WHAT; a body that comes is checked byte by byte."""
    path = received.target.partition("?")[0].split("/")
    what, number = path[2], int(path[4]) if path[4:] else 0
    if what == "half-read":
        await reader.read(1024)
        return reset(writer)
    if what == "frames":
        return await answer_frames(received, reader, writer)
    digest, size = sha256(), 0
    async for piece in _pieces(received, reader):
        digest.update(piece)
        size += len(piece)
    if size and digest.digest() != sha256(bytes_of(entry.mark, size)).digest():
        entry.failure = f"the upstream got another body than the client sent ({size} bytes)"
    return await BEHAVIOURS[what](received, writer, entry.mark, number)


async def _answer(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    write_answer(writer, bytes_of(mark, number))


async def _chunked(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    body = bytes_of(mark, number)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, number, READ_BYTES):
        piece = body[start : start + READ_BYTES]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def _until_close(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes_of(mark, number))
    await writer.drain()
    writer.close()


async def _slow(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    body = bytes_of(mark, number)
    step = max(1, number // SLOW_PIECES)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % number)
    for start in range(0, number, step):
        await asyncio.sleep(SLOW_PAUSE_SECONDS)
        writer.write(body[start : start + step])


async def _events(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for count in range(number):
        event = f"data: {mark} {count}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(SSE_PAUSE_SECONDS)
    writer.write(b"0\r\n\r\n")


async def _echo(received: Received, writer: StreamWriter, mark: str, _: int) -> None:
    """The request's head, secret and all, cut into small chunks: the proxy has to clean it."""
    body = received.raw_head + mark.encode()
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(body), 7):
        piece = body[start : start + 7]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    writer.write(b"0\r\n\r\n")


async def _refuse(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    write_answer(writer, bytes_of(mark, 100), f"{number} Sorry")


async def _hold(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    """No answer until the proxy has gone."""
    await writer.wait_closed()
    raise ConnectionResetError


async def _reset_before(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    reset(writer)


async def _close_before(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.close()


async def _half_head(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await writer.drain()
    writer.close()


async def _nonsense(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")
    await writer.drain()
    writer.close()


async def _half_body(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * number))
    writer.write(bytes_of(mark, number))
    await writer.drain()
    writer.close()


async def _reset_body(_: Received, writer: StreamWriter, mark: str, number: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x\r\n%s\r\n" % (number, bytes_of(mark, number)))
    await writer.drain()
    reset(writer)


BEHAVIOURS = {
    "answer": _answer,
    "chunked": _chunked,
    "until-close": _until_close,
    "slow": _slow,
    "events": _events,
    "echo": _echo,
    "status": _refuse,
    "hold": _hold,
    "reset-before": _reset_before,
    "close-before": _close_before,
    "half-head": _half_head,
    "nonsense": _nonsense,
    "half-body": _half_body,
    "reset-body": _reset_body,
}
"""What a path can ask for."""


def model_backend(make: Callable[[str], ModelApi], host: str, upstreams: Upstreams) -> Handler:
    """A pretend model API that accepts every value that its key has had."""

    async def handle(
        received: Received, reader: StreamReader, writer: StreamWriter, _: Entry
    ) -> None:
        received.body = await read_body(received, reader)
        upstreams.look_at_body(host, received.body)
        shown = received.header("x-api-key") or received.header("authorization") or ""
        api = make(shown.removeprefix("Bearer "))
        api.go_on.set()
        await api(received, writer)

    return handle


MODELS = {"api.openai.com": openai_api, "api.anthropic.com": anthropic_api}
"""The model APIs that there are."""
