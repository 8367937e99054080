"""A chunked body has one end; what is not proper chunks never comes to one."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.wire.chunked import ChunkedReader, ChunkError


def read(raw: bytes, size: int | None = None) -> tuple[bytes, bytes | None]:
    """(body, what came behind it), the bytes given in pieces of ``size``; None: no end yet."""
    reader = ChunkedReader()
    step = size or max(len(raw), 1)
    body = b"".join(reader.feed(raw[at : at + step]) for at in range(0, len(raw), step))
    return body, reader.rest if reader.done else None


@pytest.mark.parametrize(
    ("raw", "body", "rest"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1", b"hello", b"GET / HTTP/1.1"),
        (b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello", b""),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
        (b"A\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n" * 5, b""),
        (b"1F\r\n" + b"x" * 31 + b"\r\n00\r\n\r\n", b"x" * 31, b""),
        (b"000000000000009\r\n" + b"x" * 9 + b"\r\n0\r\n\r\n", b"x" * 9, b""),
        (b'1;name=value;other="a b"\r\nx\r\n0;last\r\n\r\n', b"x", b""),
        (b"1 \t;\xff\r\nx\r\n0\r\n\r\n", b"x", b""),
        (b"1;" + b"e" * 1020 + b"\r\nx\r\n0\r\n\r\n", b"x", b""),
        (b"", b"", None),
        (b"5\r\nhel", b"hel", None),
        (b"5\r\nhello\r", b"hello", None),
        (b"5\r\nhello\r\n0\r\n", b"hello", None),
        (b"5\r\nhello\r\n0\r\n\r", b"hello", None),
        (b"1;" + b"e" * 1020, b"", None),
    ],
)  # fmt: skip
def test_the_coding_is_taken_off_in_pieces_of_any_size(
    raw: bytes, body: bytes, rest: bytes | None
) -> None:
    assert read(raw) == (body, rest)
    for size in (1, 2, 3, 7):
        assert read(raw, size) == (body, rest)


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"0_5\r\nhello\r\n",
        b"5g\r\nhello\r\n",
        b";x\r\nhello\r\n",
        b"5,5\r\nhello\r\n",
        b"\xd9\xa5\r\nhello\r\n",
        b"0000000000000005\r\nhello\r\n",
        b"5\nhello\n0\n\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;a\x00b\r\nhello\r\n",
        b"5;a\x08b\r\nhello\r\n",
        b"5;a\x1fb\r\nhello\r\n",
        b"5;a\x7fb\r\nhello\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n\r0\r\n\r\n",
        b"5\r\nhello\r\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"0\r\n \r\n\r\n",
        b"0\r\n0\r\n\r\n",
        b"1;" + b"e" * 1021 + b"\r\nx\r\n0\r\n\r\n",
        b"1" * 1024,
    ],
)
def test_anything_else_is_refused_however_it_arrives(raw: bytes) -> None:
    for size in (None, 1, 2, 5):
        with pytest.raises(ChunkError):
            read(raw, size)


def test_every_hexadecimal_digit_is_one() -> None:
    sizes = b"123456789abcdefABCDEF"
    raw = b"".join(b"%c\r\n%s\r\n" % (d, b"x" * int(chr(d), 16)) for d in sizes) + b"0\r\n\r\n"
    assert read(raw) == (b"x" * sum(int(chr(d), 16) for d in sizes), b"")


@pytest.mark.parametrize("number", range(256))
def test_an_extension_holds_no_control_character(number: int) -> None:
    raw = b"1;%c\r\nx\r\n0\r\n\r\n" % number
    if number in (*range(9), *range(10, 32), 127):
        with pytest.raises(ChunkError):
            read(raw)
    else:
        assert read(raw) == (b"x", b"")


def test_a_size_line_that_is_too_long_is_refused_before_it_ends() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"1" * 1023) == b""
    with pytest.raises(ChunkError, match="too long"):
        reader.feed(b"1")


PIECES = st.lists(
    st.sampled_from(
        [b"0", b"1", b"5", b"a", b"\r\n", b"\r", b"\n", b"hello", b"x", b";", b" ", b"\t", b"\0"]
    ),
    max_size=12,
).map(b"".join)


@given(PIECES | st.binary(max_size=30), st.integers(1, 8))
def test_what_is_read_whole_is_what_another_parser_reads(raw: bytes, size: int) -> None:
    other = h11.Connection(h11.SERVER)
    other.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert isinstance(other.next_event(), h11.Request)
    try:
        body, rest = read(raw, size)
    except ChunkError:
        return
    if rest is None:
        return
    theirs = b""
    while isinstance(event := other.next_event(), h11.Data):
        theirs += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage), event
    assert theirs == body
    assert other.trailing_data[0] == rest


END = b"0\r\n\r\n"
MISTAKES = {
    "a trailer": b"0\r\nX-Sum: 1\r\n\r\n",
    "a size that is no number": b"x\r\n" + END,
    "a chunk longer than it says": b"1\r\nab\r\n" + END,
    "a size line without end": b"1;" + b"x" * 2000 + b"\r\na\r\n" + END,
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_nobody_reads_on_behind_a_mistake(mistake: str, piece_bytes: int) -> None:
    raw = MISTAKES[mistake] + b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n" + END
    reader = ChunkedReader()
    failed = False
    for start in range(0, len(raw), piece_bytes):
        try:
            reader.feed(raw[start : start + piece_bytes])
        except ChunkError:
            failed = True
        else:
            assert not failed
    for _ in range(3):
        with pytest.raises(ChunkError):
            reader.feed(b"")
    assert not reader.done
