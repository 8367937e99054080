"""Where a request head ends, found in bytes that may come one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.reasons import Reason
from understudy.wire.head import looks_like_http

_LONGEST_START = 66
"""A method of at most 64 characters, the space behind it, and one that is too many."""
_TLS_HANDSHAKE, _TLS_MAJOR_VERSION = 0x16, 3
_TLS_RECORD_START = 3


@dataclass(frozen=True, slots=True)
class Incomplete:
    """More bytes are needed."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that never become a request."""

    reason: Reason
    detail: str | None = None


INCOMPLETE = Incomplete()


class HeadScan:
    """Looks for the end of one head in a buffer that grows, at each byte once.

    A client may send a head in as many pieces as it has bytes; looking at all of it again with
    every piece would let a slow client cost as much as the square of what it sends.
    """

    __slots__ = ("_has_line", "_inside_tls", "_seen")

    def __init__(self, *, inside_tls: bool = False) -> None:
        self._inside_tls = inside_tls
        self._seen = 0
        self._has_line = False

    def look(self, data: bytes | bytearray, max_header_bytes: int) -> int | Incomplete | Rejected:
        """The length of the head that ``data`` begins with, or why there is none.

        ``data`` begins with what it was the last time.
        """
        seen = self._seen
        if not data:
            return INCOMPLETE
        if self._inside_tls and data[0] == _TLS_HANDSHAKE:
            if len(data) < _TLS_RECORD_START:
                return INCOMPLETE
            is_tls = data[1] == _TLS_MAJOR_VERSION
            return Rejected(Reason.NESTED_TLS if is_tls else Reason.NOT_HTTP)
        if not self._has_line:
            line_end = data.find(b"\r\n", max(seen - 1, 0))
            self._has_line = line_end >= 0
            start = data[: line_end + 2] if self._has_line else data[:_LONGEST_START]
            if not looks_like_http(bytes(start)):
                return Rejected(Reason.NOT_HTTP)
        end = data.find(b"\r\n\r\n", max(seen - 3, 0))
        length = end + 4 if end >= 0 else len(data)
        if length > max_header_bytes:
            return Rejected(Reason.HEADER_TOO_LARGE)
        # Some servers end a head at a bare LF.
        newlines = data.count(b"\n", seen, length)
        if newlines and newlines != data.count(b"\r\n", max(seen - 1, 0), length):
            return Rejected(Reason.BAD_HEADER, "a line ends without CR")
        self._seen = length
        return length if end >= 0 else INCOMPLETE
