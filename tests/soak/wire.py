"""A client that sends what it is told to, without blocking: one tunnel, or a bare connection."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

from tests.soak.stage import FORMS, has_secret

READ_BYTES = 1 << 16
KEPT_BYTES = 1 << 16
LONGEST_FORM = max(map(len, FORMS))
CLOSED = (OSError, asyncio.IncompleteReadError, ssl.SSLError)
"""What a client sees where the other side has gone."""
_DETAILS = re.compile(rb'details="([a-z_]+)"')


@dataclass
class Answer:
    """A response: its head, the digest of its body, and the body's first 64 KiB."""

    status: int
    head: bytes
    body: bytes = b""
    digest: bytes = b""
    size: int = 0
    whole: bool = False

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^%s:[ \t]*(.*?)\r?$" % name.encode(), self.head)
        return found[1].decode("latin-1") if found else None

    @property
    def denial(self) -> str | None:
        """The reason, where the proxy itself answers."""
        status = self.header("proxy-status")
        found = _DETAILS.search(status.encode()) if status else None
        return found[1].decode() if found else None


class Watched(StreamReader):
    """Looks at every byte that a client gets, whatever becomes of it there."""

    def __init__(self, on_secret: Callable[[], None]) -> None:
        super().__init__(limit=READ_BYTES * 2)
        self._on_secret = on_secret
        self._tail = b""

    def feed_data(self, data: bytes) -> None:
        seen = self._tail + data
        if has_secret(seen):
            self._on_secret()
        self._tail = seen[-LONGEST_FORM:]
        super().feed_data(data)


class Wire:
    """One connection to the proxy."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: tuple[str, int], on_secret: Callable[[], None]) -> Self:
        """Connect; ``on_secret`` is called where a secret shows in what comes."""
        loop = asyncio.get_running_loop()
        reader = Watched(on_secret)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        return cls(reader, StreamWriter(transport, protocol, reader, loop))

    async def connect(self, authority: str) -> Answer:
        """Ask for a tunnel."""
        self.writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        answer = await self.read_head()
        if answer.status != 200:
            await self._read_body(answer)
        return answer

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """TLS inside the tunnel."""
        await self.writer.start_tls(context, server_hostname=name)

    async def send(self, data: bytes) -> None:
        """Send and wait until the proxy has taken enough of it."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> Answer:
        """One whole answer; one that breaks off is not ``whole``."""
        answer = await self.read_head()
        while answer.status < 200:
            answer = await self.read_head()
        with contextlib.suppress(*CLOSED):
            await self._read_body(answer)
        return answer

    async def read_beginning(self) -> Answer:
        """A head and some bytes of the body."""
        answer = await self.read_head()
        answer.body = await self.reader.read(READ_BYTES)
        return answer

    async def is_closed_silently(self) -> bool:
        """Wait for the end; whether nothing came before it."""
        with contextlib.suppress(*CLOSED):
            return not await self.reader.read(READ_BYTES)
        return True

    def abort(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with contextlib.suppress(Exception):
            await self.writer.wait_closed()

    async def read_head(self) -> Answer:
        """The next head."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        return Answer(int(head.split(b" ", 2)[1]), head)

    async def _read_body(self, answer: Answer) -> None:
        hasher = sha256()
        try:
            if "chunked" in (answer.header("transfer-encoding") or ""):
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    self._take(answer, hasher, await self.reader.readexactly(size))
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
            elif (length := answer.header("content-length")) is not None:
                left = int(length)
                while left:
                    piece = await self.reader.read(min(left, READ_BYTES))
                    if not piece:
                        return
                    left -= len(piece)
                    self._take(answer, hasher, piece)
            else:
                while piece := await self.reader.read(READ_BYTES):
                    self._take(answer, hasher, piece)
            answer.whole = True
        finally:
            answer.digest = hasher.digest()

    @staticmethod
    def _take(answer: Answer, hasher: Any, piece: bytes) -> None:
        hasher.update(piece)
        answer.size += len(piece)
        answer.body += piece[: max(0, KEPT_BYTES - len(answer.body))]
