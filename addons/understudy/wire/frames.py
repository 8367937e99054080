"""WebSocket frames (RFC 6455 5) as they stream by: strict grammar, no extension, no repairs."""

from __future__ import annotations

import struct
from typing import NamedTuple

CONTINUATION = 0x0
CLOSE = 0x8
"""Also the first of the control frames' opcodes."""
MAX_CONTROL_BYTES = 125

_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_FIN = 0x80
_RESERVED = 0x70
_MASKED = 0x80
_SHORT = 126
_LONG = 127
_MAX_LENGTH = 1 << 63


class FrameError(ValueError):
    """Bytes that are no frame, or a frame where it may not stand."""


class Piece(NamedTuple):
    """Some of a frame's payload: all that has arrived of it. A control frame comes whole."""

    opcode: int
    """The frame's; CONTINUATION in every frame of a message but its first."""
    payload: bytes
    """As sent: a client's is masked."""
    ends_message: bool

    @property
    def is_control(self) -> bool:
        """Whether this is a frame of its own, outside of any message."""
        return self.opcode >= CLOSE


class FrameReader:
    """Reads one direction; ``masked`` is what RFC 6455 5.1 wants there: true for a client's.

    Holds back a few bytes at most, so the length of a frame costs nothing.
    """

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._held = b""
        self._opcode = 0
        self._is_last = False
        self._left: int | None = None
        """What is left of the frame's payload; None between frames."""
        self._in_message = False
        self.closed = False
        """A close frame has come: nothing may follow it."""

    def feed(self, data: bytes) -> list[Piece]:
        """Take the next bytes. Raises FrameError; nothing of these bytes may then be used."""
        data = self._held + data
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            if self._left is None:
                size = self._read_header(data[at : at + 14], len(data) - at)
                if size == 0:
                    break
                at += size
            left = self._left or 0
            payload = data[at : at + left]
            at += len(payload)
            self._left = left - len(payload) or None
            ends_frame = self._left is None
            if payload or ends_frame:
                pieces.append(Piece(self._opcode, payload, ends_frame and self._is_last))
        self._held = data[at:]
        return pieces

    def _read_header(self, data: bytes, available: int) -> int:
        """Read a frame's header; its size, or 0 where more bytes are needed."""
        if self.closed:
            raise FrameError("a frame follows the close frame")
        if available < 2:  # noqa: PLR2004 - the fixed part
            return 0
        first, second = data[0], data[1]
        opcode, length, size = first & 0x0F, second & 0x7F, 2
        self._check(first, opcode, length, is_masked=bool(second & _MASKED))
        if length >= _SHORT:
            form, shortest = ("!H", _SHORT) if length == _SHORT else ("!Q", 1 << 16)
            size += struct.calcsize(form)
            if available < size:
                return 0
            (length,) = struct.unpack(form, data[2:size])
            if not shortest <= length < _MAX_LENGTH:
                raise FrameError("a length is not in its shortest form")
        size += 4 * self._masked
        if available < size + (length if opcode >= CLOSE else 0):
            return 0
        if opcode < CLOSE:
            self._in_message = not first & _FIN
        self.closed = opcode == CLOSE
        self._opcode, self._is_last, self._left = opcode, bool(first & _FIN), length
        return size

    def _check(self, first: int, opcode: int, length: int, *, is_masked: bool) -> None:
        if first & _RESERVED or opcode not in _OPCODES:
            raise FrameError("a frame of an extension that was not agreed on")
        if is_masked is not self._masked:
            raise FrameError("a frame is not masked as its side must do it")
        if opcode >= CLOSE:
            # A close frame holds nothing, or at least a code of two bytes.
            if not first & _FIN or length > MAX_CONTROL_BYTES or (opcode, length) == (CLOSE, 1):
                raise FrameError("a control frame is in parts or of a wrong length")
        elif (opcode == CONTINUATION) is not self._in_message:
            raise FrameError("a frame stands in the wrong place of a message")


def write_frame(opcode: int, payload: bytes, *, is_last: bool) -> bytes:
    """A server's frame: not masked."""
    first = opcode | (_FIN if is_last else 0)
    length = len(payload)
    if length < _SHORT:
        header = struct.pack("!BB", first, length)
    elif length < 1 << 16:
        header = struct.pack("!BBH", first, _SHORT, length)
    else:
        header = struct.pack("!BBQ", first, _LONG, length)
    return header + payload
