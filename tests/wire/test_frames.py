"""WebSocket frames: what wsproto reads, whatever the bytes are cut into; nothing else passes."""

from __future__ import annotations

import contextlib
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.websocket import client_frame, server_frame
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from understudy.wire.frames import FrameError, FrameReader, write_frame

PAYLOAD = st.binary(max_size=300) | st.sampled_from([b"x" * 65_535, b"y" * 65_536])
MESSAGES = st.lists(
    st.tuples(st.sampled_from([1, 2, 9, 10]), st.lists(PAYLOAD, min_size=1, max_size=4)),
    max_size=5,
)
ODD = [
    b"", b"\x81", b"\x7e\x00\x05", b"\x7f" + b"\x00" * 8, b"\xff" * 9, b"\x81\x85mask",
    b"\x88\x01x",
]  # fmt: skip


def frames_of(messages: list[tuple[int, list[bytes]]], *, masked: bool) -> bytes:
    frame = client_frame if masked else server_frame
    out = b""
    for opcode, parts in messages:
        if opcode > 8:
            out += frame(parts[0][:125], opcode)
            continue
        for number, part in enumerate(parts):
            fin = 0x80 if number == len(parts) - 1 else 0
            out += frame(part, 0 if number else opcode, first=fin)
    return out


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(MESSAGES, st.booleans(), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_every_payload_is_read_whole_in_any_chunking(
    messages: list[tuple[int, list[bytes]]], masked: bool, places: list[int]
) -> None:
    raw = frames_of(messages, masked=masked)
    reader = FrameReader(masked=masked)
    pieces = [piece for data in cut(raw, places) for piece in reader.feed(data)]
    ends = [piece for piece in pieces if piece.ends_message]
    assert len(ends) == len(messages)
    assert not reader.closed
    if not masked:
        wanted = [parts[0][:125] if op > 8 else b"".join(parts) for op, parts in messages]
        read, whole = b"", []
        for piece in pieces:
            read += piece.payload
            if piece.ends_message:
                whole.append(read)
                read = b""
        assert whole == wanted
        rewritten = b"".join(write_frame(p.opcode, p.payload, is_last=p.ends_message) for p in ends)
        assert len(rewritten) <= len(raw)


@given(
    MESSAGES, st.booleans(), st.integers(0, 1 << 20), st.binary(max_size=20) | st.sampled_from(ODD)
)
def test_what_passes_is_what_wsproto_reads(
    messages: list[tuple[int, list[bytes]]], masked: bool, place: int, noise: bytes
) -> None:
    """With noise anywhere: ours is never more forgiving, text's encoding aside."""
    raw = frames_of(messages, masked=masked)
    at = place % (len(raw) + 1)
    raw = raw[:at] + noise + raw[at:]
    try:
        FrameReader(masked=masked).feed(raw)
    except FrameError:
        return
    # A server reads what a client masks.
    theirs = FrameProtocol(client=not masked, extensions=[])
    theirs.receive_bytes(raw)
    try:
        for _ in theirs.received_frames():
            pass
    except ParseFailed as error:
        assert re.search("utf-?8|close with", str(error), re.IGNORECASE), error  # noqa: PT017 - else none


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_written_is_read(length: int) -> None:
    for is_last in (True, False):
        reader = FrameReader(masked=False)
        (piece,) = reader.feed(write_frame(2, b"x" * length, is_last=is_last))
        assert piece == (2, b"x" * length, is_last)


def test_a_control_frame_comes_whole() -> None:
    reader = FrameReader(masked=False)
    raw = server_frame(b"half", first=0) + server_frame(b"ping", 9) + server_frame(b"rest", 0)
    pieces = [piece for i in range(len(raw)) for piece in reader.feed(raw[i : i + 1])]
    assert [p.payload for p in pieces if p.is_control] == [b"ping"]
    assert b"".join(p.payload for p in pieces if not p.is_control) == b"halfrest"


BEGUN = b"\x01\x00"
"""Of a message of two frames the first."""
CLOSED = b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        *[(bytes([0x81 | bit, 0]), "extension") for bit in (0x40, 0x20, 0x10)],
        *[
            (bytes([0x80 | opcode, 0]), "extension")
            for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
        ],
        (b"\x81\x80mask", "masked"),
        (b"\x80\x00", "wrong place"),
        (b"\x00\x00", "wrong place"),
        (BEGUN + b"\x81\x00", "wrong place"),
        (BEGUN + b"\x02\x00", "wrong place"),
        (BEGUN + b"\x80\x00" + b"\x80\x00", "wrong place"),
        (BEGUN + b"\x89\x00" + b"\x81\x00", "wrong place"),
        *[(bytes([opcode, 0]), "in parts") for opcode in (8, 9, 10)],
        *[(bytes([0x80 | opcode, 126, 0, 126]), "wrong length") for opcode in (8, 9, 10)],
        (b"\x88\x01x", "wrong length"),
        (b"\x82\x7e\x00\x7d", "shortest form"),
        (b"\x82\x7f" + (65_535).to_bytes(8), "shortest form"),
        (b"\x82\x7f" + (1 << 63).to_bytes(8), "shortest form"),
        (CLOSED + b"\x81\x00", "follows the close"),
        (CLOSED + CLOSED, "follows the close"),
        (b"\x88\x00\x89\x00", "follows the close"),
    ],
)
def test_a_frame_that_is_none_is_refused_and_said_why(raw: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        FrameReader(masked=False).feed(raw)
    with pytest.raises(FrameError, match=why):
        list(map(FrameReader(masked=False).feed, cut(raw, list(range(len(raw))))))


def test_a_client_masks_and_a_server_does_not() -> None:
    with pytest.raises(FrameError, match="masked"):
        FrameReader(masked=True).feed(b"\x81\x00")
    (piece,) = FrameReader(masked=True).feed(b"\x81\x81mask" + b"x")
    assert piece == (1, b"x", True)


@pytest.mark.parametrize(
    ("raw", "pieces"),
    [
        (b"\x88\x00", [(8, b"", True)]),
        (CLOSED, [(8, b"\x03\xe8", True)]),
        (b"\x89\x7d" + b"x" * 125, [(9, b"x" * 125, True)]),
        (b"\x8a\x01x" + b"\x82\x00", [(10, b"x", True), (2, b"", True)]),
        (BEGUN + b"\x00\x01a" + b"\x80\x00", [(1, b"", False), (0, b"a", False), (0, b"", True)]),
        (b"\x82\x7e\x00\x7e" + b"x" * 126, [(2, b"x" * 126, True)]),
        (b"\x82\x7f" + (65_536).to_bytes(8) + b"x", [(2, b"x", False)]),
        (b"\x82\x7f" + ((1 << 63) - 1).to_bytes(8) + b"x", [(2, b"x", False)]),
        (b"\x89\x02x", []),
    ],
)
def test_a_frame_is_read_as_it_stands(raw: bytes, pieces: list[tuple[int, bytes, bool]]) -> None:
    reader = FrameReader(masked=False)
    assert reader.feed(raw) == pieces
    assert reader.closed is (raw[0] == 0x88)
    assert all(p.is_control is (p.opcode >= 8) for p in FrameReader(masked=False).feed(raw))


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_or_refused_and_little_is_held(data: bytes, masked: bool) -> None:
    reader = FrameReader(masked=masked)
    with contextlib.suppress(FrameError):
        for i in range(len(data)):
            reader.feed(data[i : i + 1])
    assert len(reader._held) < 140
