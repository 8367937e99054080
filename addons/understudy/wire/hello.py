"""Whether a ClientHello can be read yet: its TLS records, in bytes that may come one at a time."""

from __future__ import annotations

from understudy.reasons import Reason
from understudy.wire.scan import INCOMPLETE, Incomplete, Rejected

MAX_HELLO_BYTES = 1 << 14
"""Real ones have two kilobytes, post-quantum key shares and all."""
MAX_HELLO_RECORDS = 16
"""Real ones come in one; a few programs send two."""
_HEADER_BYTES = 5
_CLIENT_HELLO = 1


class HelloScan:
    """Counts whole records at the beginning of a buffer that grows; each is looked at once."""

    __slots__ = ("_end", "_records")

    def __init__(self) -> None:
        self._end = 0
        self._records = 0

    def look(self, data: bytes | bytearray) -> int | Incomplete | Rejected:
        """The length of all whole records in ``data``, where one more came whole.

        The bytes behind that may be the beginning of another.
        """
        if len(data) > MAX_HELLO_BYTES:
            return Rejected(Reason.NOT_HTTP, "the ClientHello is too large")
        start = data[_HEADER_BYTES : _HEADER_BYTES + int.from_bytes(data[3:_HEADER_BYTES])]
        if start and start[0] != _CLIENT_HELLO:
            return Rejected(Reason.NOT_HTTP, "no ClientHello")
        if int.from_bytes(start[1:4]) > MAX_HELLO_BYTES:
            return Rejected(Reason.NOT_HTTP, "the ClientHello is too large")
        before = self._end
        while len(data) >= self._end + _HEADER_BYTES:
            size = int.from_bytes(data[self._end + 3 : self._end + _HEADER_BYTES])
            if len(data) < self._end + _HEADER_BYTES + size:
                break
            self._end += _HEADER_BYTES + size
            self._records += 1
        if self._records > MAX_HELLO_RECORDS:
            return Rejected(Reason.NOT_HTTP, "the ClientHello is in too many pieces")
        return self._end if self._end > before else INCOMPLETE
