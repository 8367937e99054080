"""Content codings taken off as a body streams, in bounds: what a few bytes may grow to is limited.

The proxy asks for plain bodies where it must read them. This is for upstreams that compress all
the same.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import brotli
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_GROWTH_BYTES = 8 << 20
"""What one piece of input, some tens of KiB, may become; more is taken for a bomb."""
_PIECE_BYTES = 1 << 16
_ZSTD_STEP_BYTES = 64  # four bytes may be a block of 128 KiB, and its decoder knows no limit
_ZSTD_WINDOW_BYTES = 8 << 20  # RFC 9659
_ZLIB_WRAPPED, _ZLIB_RAW, _GZIP = 15, -15, 31
_ZLIB_HEAD_BYTES = 2
_BROKE_OFF = "the upstream's compressed body broke off"


class CodingError(Exception):
    """A coded body that cannot be read; the message is one of a few fixed sentences."""


class Decoder(Protocol):
    """Takes a content coding off, piece by piece."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes. Raises :class:`CodingError`."""

    def close(self) -> None:
        """Say that the body ended. Raises :class:`CodingError` where it broke off."""


def decoder_of(content_encoding: str) -> Decoder | None:
    """A decoder for a Content-Encoding: identity, or one of gzip, deflate, br and zstd.

    None for any other, and for several.
    """
    if not content_encoding:
        return _Identity()
    names = [name.strip().lower() for name in content_encoding.split(",")]
    codings = [name for name in names if name not in ("", "identity")]
    if not codings:
        return _Identity()
    make = _DECODERS.get(codings[0]) if len(codings) == 1 else None
    return _Bounded(make()) if make else None


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def close(self) -> None:
        pass


class _Bounded:
    """Limits what another decoder may give, and tells its errors in our words."""

    def __init__(self, inner: Decoder) -> None:
        self._inner = inner

    def feed(self, data: bytes) -> Iterator[bytes]:
        left = MAX_GROWTH_BYTES
        try:
            for piece in self._inner.feed(data):
                left -= len(piece)
                if left < 0:
                    raise CodingError("the upstream's compressed body grew beyond all bounds")
                yield piece
        except (zlib.error, brotli.error, zstandard.ZstdError):
            raise CodingError("the upstream's compressed body is damaged") from None

    def close(self) -> None:
        self._inner.close()


class _Inflate:
    """zlib's codings; with ``members`` one stream may follow another."""

    def __init__(self, choose: Callable[[bytes], int], *, members: bool) -> None:
        self._choose = choose
        self._members = members
        self._inflater: zlib._Decompress | None = None
        self._held = b""
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        data, self._held = self._held + data, b""
        full = False
        while data or full:
            if self._inflater is None:
                if self._ended and not self._members:
                    raise zlib.error("data behind the end")
                if len(data) < _ZLIB_HEAD_BYTES:
                    self._held = data
                    return
                self._inflater = zlib.decompressobj(self._choose(data))
            piece = self._inflater.decompress(data, _PIECE_BYTES)
            data = self._inflater.unconsumed_tail
            full = len(piece) == _PIECE_BYTES
            if self._inflater.eof:
                data = self._inflater.unused_data
                full = False
                self._ended = True
                self._inflater = None
            yield piece

    def close(self) -> None:
        if self._inflater is not None or self._held:
            raise CodingError(_BROKE_OFF)


def _choose_gzip(_: bytes) -> int:
    return _GZIP


def _choose_deflate(start: bytes) -> int:
    """RFC 1950's wrapper by its check bits; without it the bare stream that some servers send."""
    wrapped = start[0] & 15 == 8 and int.from_bytes(start[:2]) % 31 == 0  # noqa: PLR2004 - RFC 1950 2.2
    return _ZLIB_WRAPPED if wrapped else _ZLIB_RAW


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._begun = True
        if self._decompressor.is_finished():
            raise brotli.error("data behind the end")
        piece = self._decompressor.process(data, output_buffer_limit=_PIECE_BYTES)
        while piece:
            yield piece
            # It takes more input while it still has output, so only silence means that it is done.
            piece = self._decompressor.process(b"", output_buffer_limit=_PIECE_BYTES)

    def close(self) -> None:
        if self._begun and not self._decompressor.is_finished():
            raise CodingError(_BROKE_OFF)


class _Zstandard:
    """zstd, of any number of frames."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_STEP_BYTES):
            step = data[start : start + _ZSTD_STEP_BYTES]
            while step:
                frame = self._frame = self._frame or self._decompressor.decompressobj()
                yield frame.decompress(step)
                step = b""
                if frame.eof:
                    step = frame.unused_data
                    self._frame = None

    def close(self) -> None:
        if self._frame is not None:
            raise CodingError(_BROKE_OFF)


_DECODERS: Mapping[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Inflate(_choose_gzip, members=True),
    "x-gzip": lambda: _Inflate(_choose_gzip, members=True),
    "deflate": lambda: _Inflate(_choose_deflate, members=False),
    "br": _Brotli,
    "zstd": _Zstandard,
}
