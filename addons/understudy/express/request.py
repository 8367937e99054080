"""A request's body as it comes from the client: by length, in chunks, or none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from understudy.express.stream import PARSED_BYTES
from understudy.wire.chunked import ChunkedReader, ChunkError

if TYPE_CHECKING:
    from understudy.express.stream import Stream
    from understudy.wire.head import RequestHead

MAX_DRAINED_BYTES = 1 << 28
"""The most that is read of a request only to be dropped."""
MAX_DRAIN_SECONDS = 30.0


class RequestBody:
    """Reads a request's body off the client's stream; what follows it stays there."""

    def __init__(self, stream: Stream, head: RequestHead) -> None:
        self._stream = stream
        self._left = head.content_length or 0
        self._chunks = ChunkedReader() if head.has_body and head.content_length is None else None

    @property
    def done(self) -> bool:
        """Whether everything was read."""
        return self._chunks.done if self._chunks else self._left == 0

    def at_hand(self) -> bool:
        """Whether all that is left has arrived."""
        return self._chunks is None and len(self._stream.received) >= self._left

    def take_whole(self) -> bytes:
        """All that is left; only where it is :meth:`at_hand`."""
        left, self._left = self._left, 0
        return self._stream.take(left) if left else b""

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Raises ChunkError, ConnectionError."""
        while not self.done:
            if not self._stream.received and not await self._stream.wait():
                raise ConnectionError("Client disconnected.")
            if self._chunks is None:
                data = self._stream.take(self._left)
                self._left -= len(data)
                return data
            data = self._chunks.feed(self._stream.take(PARSED_BYTES))
            if self._chunks.done:
                self._stream.received[:0] = self._chunks.rest
            elif self._stream.received:
                await asyncio.sleep(0)
            if data:
                return data
        return b""

    async def read_whole(self) -> bytes:
        """All that is left of it."""
        pieces = []
        while data := await self.read():
            pieces.append(data)
        return b"".join(pieces)

    async def skip(self) -> None:
        """Read what is left of it for nothing: only so much, and only for so long."""
        left = MAX_DRAINED_BYTES
        with contextlib.suppress(ChunkError, ConnectionError, TimeoutError):
            async with asyncio.timeout(MAX_DRAIN_SECONDS):
                while left > 0 and (data := await self.read()):
                    left -= len(data)
