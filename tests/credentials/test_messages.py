"""Secrets in a WebSocket's messages, whatever its frames and chunks are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.support.websocket import server_frame

from understudy.credentials.messages import MessageScrubber
from understudy.credentials.scrub import Guarded, Scrubber, forms_of
from understudy.credentials.secret import Secret
from understudy.wire.frames import FrameReader

VALUE = "sk-real-5ecret-5ecret-5ecret"
PLACEHOLDER = "sk-placeholder-0123456789abcdefghij"
FORMS = forms_of((Guarded("good", Secret(VALUE, "KEY"), PLACEHOLDER),))
TEXT = st.lists(st.sampled_from([VALUE, VALUE[:7], VALUE[7:], "x", "sk-"]), max_size=8).map("".join)


def read(raw: bytes) -> list[tuple[int, bytes]]:
    """The messages in a server's frames: (opcode, payload)."""
    found: list[tuple[int, bytes]] = []
    opcode, payload = 0, b""
    for piece in FrameReader(masked=False).feed(raw):
        if piece.is_control:
            found.append((piece.opcode, piece.payload))
            continue
        opcode = opcode or piece.opcode
        payload += piece.payload
        if piece.ends_message:
            found.append((opcode, payload))
            opcode, payload = 0, b""
    return found


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 9]), TEXT, st.integers(0, 200)), max_size=6),
    st.integers(1, 50),
)
def test_each_message_is_cleaned_whole_and_stays_one(
    messages: list[tuple[int, str, int]], size: int
) -> None:
    raw = b""
    for opcode, text, place in messages:
        data = text.encode()[: 125 if opcode == 9 else None]
        if opcode == 9:
            raw += server_frame(data, 9)
        else:
            raw += server_frame(data[:place], opcode, first=0) + server_frame(data[place:], 0)
    scrubber = MessageScrubber(Scrubber(FORMS), FrameReader(masked=False))
    out = b"".join(scrubber.feed(raw[i : i + size]) for i in range(0, len(raw), size))
    wanted = [
        (
            op,
            text.encode()[: 125 if op == 9 else None].replace(VALUE.encode(), PLACEHOLDER.encode()),
        )
        for op, text, _ in messages
    ]
    got = read(out)
    assert got == [(op, text[:125] if op == 9 else text) for op, text in wanted]
    assert VALUE.encode() not in out


def test_a_message_begins_before_its_end_is_there() -> None:
    scrubber = MessageScrubber(Scrubber(FORMS), FrameReader(masked=False))
    raw = server_frame(b"hello " + VALUE.encode())
    assert scrubber.feed(raw[:8]) == b"\x01\x06hello "
    assert scrubber.feed(raw[8:-1]) == b""
    assert scrubber.feed(raw[-1:]) == b"\x80" + bytes([len(PLACEHOLDER)]) + PLACEHOLDER.encode()


def test_a_close_frame_stays_within_its_bounds() -> None:
    scrubber = MessageScrubber(Scrubber(FORMS), FrameReader(masked=False))
    out = scrubber.feed(server_frame(b"\x03\xe8" + VALUE.encode() * 4, 8))
    assert out[:4] == b"\x88\x7d\x03\xe8"
    assert len(out) == 127
