"""Hands every request that a recording upstream receives on to a real server, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.support.upstream import Received


@dataclass
class Relay:
    """A handler for :class:`tests.support.upstream.Upstream` in front of a server on loopback.

    Head and body go on as they came (a chunked body as one chunk), and every piece of the
    response as it arrives, so that the upstream's record is what the real server received.
    """

    port: int = 0

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        reader, server = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            server.write(received.raw_head + _framed(received))
            await server.drain()
            await _copy_response(reader, writer)
        finally:
            server.close()
            await server.wait_closed()


def _framed(received: Received) -> bytes:
    if not received.header("transfer-encoding"):
        return received.body
    chunk = b"%x\r\n%s\r\n" % (len(received.body), received.body) if received.body else b""
    return chunk + b"0\r\n\r\n"


async def _copy_response(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one response; the framings are those that uvicorn writes."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    response = Received(head, b"", 0)
    if response.header("transfer-encoding"):
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line, 16)
            writer.write(line + await reader.readexactly(size + 2))
            await writer.drain()
            if size == 0:
                break
    elif length := response.header("content-length"):
        writer.write(await reader.readexactly(int(length)))
    if response.header("connection") == "close":
        await writer.drain()
        writer.close()
