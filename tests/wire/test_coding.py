"""Content codings come off as they stream: whole, in bounds, or with an error that says what."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.coding import MAX_GROWTH_BYTES, CodingError, Decoder, decoder_of


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "gzip of two members": ("gzip", lambda d: gzip.compress(d[:3]) + gzip.compress(d[3:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without a wrapper": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd),
    "zstd of two frames": ("zstd", lambda d: zstd(d[:3]) + zstd(d[3:])),
    "identity": (" Identity ,", bytes),
}
COMPRESSED = [name for name in ENCODERS if name != "identity"]


def decoder(coding: str) -> Decoder:
    made = decoder_of(coding)
    assert made is not None
    return made


def decode(made: Decoder, pieces: list[bytes]) -> bytes:
    plain = b"".join(b"".join(made.feed(piece)) for piece in pieces)
    made.close()
    return plain


@pytest.mark.parametrize("name", ENCODERS)
@given(data=st.binary(max_size=300), size=st.integers(1, 40))
def test_every_coding_comes_off_over_any_chunking(name: str, data: bytes, size: int) -> None:
    coding, encode = ENCODERS[name]
    body = encode(data)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert decode(decoder(coding), pieces) == data


@pytest.mark.parametrize("name", COMPRESSED)
def test_long_runs_come_out_whole(name: str) -> None:
    coding, encode = ENCODERS[name]
    data = b"a" * 3_000_000 + bytes(range(256)) * 1000
    assert decode(decoder(coding), [encode(data)]) == data


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_flushes_in_the_middle_comes_out_at_once(name: str) -> None:
    coding, _ = ENCODERS[name]
    if coding == "br":
        compressor = brotli.Compressor()
        start = compressor.process(b"data: one\n\n") + compressor.flush()
    elif coding == "zstd":
        compressor = zstandard.ZstdCompressor().compressobj()
        start = compressor.compress(b"data: one\n\n")
        start += compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    else:
        compressor = zlib.compressobj(wbits=31 if "gzip" in coding.lower() else 15)
        start = compressor.compress(b"data: one\n\n") + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert b"".join(decoder(coding).feed(start)) == b"data: one\n\n"


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_bomb_stops_at_the_bound(name: str) -> None:
    coding, encode = ENCODERS[name]
    bomb = encode(b"\0" * (MAX_GROWTH_BYTES * 4))
    pieces: list[bytes] = []
    with pytest.raises(CodingError, match="grew beyond"):
        pieces.extend(decoder(coding).feed(bomb))
    assert len(b"".join(pieces)) <= MAX_GROWTH_BYTES


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_body_that_breaks_off_says_so(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = encode(b"some text that is long enough to be cut off")
    made = decoder(coding)
    b"".join(made.feed(body[:-2]))
    with pytest.raises(CodingError, match="broke off"):
        made.close()


@pytest.mark.parametrize("name", COMPRESSED)
def test_damage_says_so(name: str) -> None:
    coding, encode = ENCODERS[name]
    body = encode(b"some text") + b"behind the end"
    with pytest.raises(CodingError, match="damaged"):
        decode(decoder(coding), [body, b"more"])


@pytest.mark.parametrize("coding", ["compress", "aes128gcm", "gzip, br", "gzip,gzip", "dcb", "x"])
def test_other_codings_have_no_decoder(coding: str) -> None:
    assert decoder_of(coding) is None


@pytest.mark.parametrize("name", COMPRESSED)
@given(junk=st.lists(st.binary(max_size=40), max_size=5))
def test_junk_raises_nothing_else(name: str, junk: list[bytes]) -> None:
    made = decoder(ENCODERS[name][0])
    with contextlib.suppress(CodingError):
        decode(made, junk)
