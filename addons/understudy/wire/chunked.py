"""The chunked transfer coding, read strictly: hex sizes, CRLF, no trailers. Pure."""

from __future__ import annotations

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_MAX_LINE_BYTES = 1024
"""Of a line with a size in it, its end included."""


class ChunkError(ValueError):
    """Bytes that are not the chunked coding, or that carry trailers."""


class ChunkedReader:
    """Takes the coding off: :meth:`feed` gives the body's bytes; extensions are dropped.

    Once it has raised ChunkError it does so whenever it is asked again: nobody reads on behind a
    mistake.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._left = 0
        """Bytes of the current chunk, its CRLF included, that are still to come."""
        self._ending = False
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes; give the body's. Once ``done``, what is left over is :attr:`rest`.

        Raises ChunkError.
        """
        self._pending += data
        body = bytearray()
        while not self.done:
            if self._left > 2:  # noqa: PLR2004 - the chunk's own CRLF
                piece = self._pending[: self._left - 2]
                if not piece:
                    break
                body += piece
                del self._pending[: len(piece)]
                self._left -= len(piece)
            elif self._left:
                if len(self._pending) < self._left:
                    break
                self._expect_line_end()
            elif not self._read_line():
                break
        return bytes(body)

    @property
    def rest(self) -> bytes:
        """What came behind the end of the body."""
        return bytes(self._pending)

    def _expect_line_end(self) -> None:
        if bytes(self._pending[:2]) != b"\r\n":
            raise ChunkError("a chunk is longer than it says")
        del self._pending[:2]
        self._left = 0

    def _read_line(self) -> bool:
        end = self._pending.find(b"\r\n", 0, _MAX_LINE_BYTES)
        if end < 0:
            if len(self._pending) >= _MAX_LINE_BYTES:
                raise ChunkError("a chunk's size line is too long")
            return False
        line = bytes(self._pending[:end])
        if self._ending and line:
            raise ChunkError("trailers are refused")
        if self._ending:
            del self._pending[:2]
            self.done = True
            return True
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ChunkError("a chunk's size is not a number")
        del self._pending[: end + 2]
        size = int(match[1], 16)
        self._ending = size == 0
        self._left = size + 2 if size else 0
        return True
