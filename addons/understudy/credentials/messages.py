"""Reflected secrets are taken out of a WebSocket's messages on their way to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.wire.frames import CONTINUATION, MAX_CONTROL_BYTES, write_frame

if TYPE_CHECKING:
    from understudy.credentials.scrub import Scrubber
    from understudy.wire.frames import FrameReader, Piece


class MessageScrubber:
    """Server's frames in, frames without secrets out; whatever the fragments of a message are.

    A message stays one message; a frame that comes in parts goes on in parts, as fragments, so
    that nothing waits for the end of a long one.
    """

    def __init__(self, scrubber: Scrubber, frames: FrameReader) -> None:
        self._scrubber = scrubber
        self._frames = frames
        self._opcode: int | None = None
        """What the next frame of the message that is under way begins with; None between two."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give what is safe to send on now. Raises FrameError."""
        return b"".join(map(self._clean, self._frames.feed(data)))

    def _clean(self, piece: Piece) -> bytes:
        if piece.is_control:
            # A placeholder may be longer than its secret.
            payload = self._scrubber.scrub(piece.payload)[:MAX_CONTROL_BYTES]
            return write_frame(piece.opcode, payload, is_last=True)
        if self._opcode is None:
            self._opcode = piece.opcode
        payload = self._scrubber.feed(piece.payload)
        if piece.ends_message:
            payload += self._scrubber.close()
        elif not payload:
            return b""
        frame = write_frame(self._opcode, payload, is_last=piece.ends_message)
        self._opcode = None if piece.ends_message else CONTINUATION
        return frame
