"""Where a head ends and whether a ClientHello is there, whatever the pieces that they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.client import client_hello

from understudy.reasons import Reason
from understudy.wire.hello import MAX_HELLO_BYTES, MAX_HELLO_RECORDS, HelloScan
from understudy.wire.scan import HeadScan, Incomplete, Rejected

LIMIT = 200
LINES = st.lists(
    st.sampled_from([b"GET / HTTP/1.1", b"X: y", b"", b"\n", b"\r", b"A" * 70, b"\x00", b"a\nb"]),
    max_size=8,
)


class Counted(bytearray):
    """A buffer that counts how many bytes are searched in it."""

    searched = 0

    def find(self, *arguments):
        self.searched += len(self) - (arguments[1] if len(arguments) > 1 else 0)
        return super().find(*arguments)


def look_bytewise(data: bytes) -> int | Incomplete | Rejected:
    scan, received = HeadScan(), bytearray()
    found: int | Incomplete | Rejected = Incomplete()
    for byte in data:
        received.append(byte)
        found = scan.look(received, LIMIT)
        if not isinstance(found, Incomplete):
            break
    return found


@given(LINES)
def test_a_head_that_comes_byte_by_byte_is_the_head_that_comes_at_once(lines: list[bytes]) -> None:
    data = b"\r\n".join(lines) + b"\r\n\r\n"
    whole, bytewise = HeadScan().look(data, LIMIT), look_bytewise(data)
    if isinstance(whole, Rejected):
        # Of two faults the one that comes first is seen first.
        assert isinstance(bytewise, Rejected)
    else:
        assert bytewise == whole


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nX: a\n b\r\n"]
)
def test_a_line_that_ends_without_cr_is_seen(data: bytes) -> None:
    for found in (HeadScan().look(data, LIMIT), look_bytewise(data)):
        assert isinstance(found, Rejected)
        assert found.reason is Reason.BAD_HEADER


def test_every_byte_of_a_head_is_looked_at_a_few_times_only() -> None:
    scan, received = HeadScan(), Counted()
    for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 5000:
        received.append(byte)
        assert scan.look(received, 10000) == Incomplete()
    assert received.searched < 10 * len(received)


@given(st.integers(1, 300))
def test_a_hello_is_there_once_its_record_is(step: int) -> None:
    hello = client_hello("good.example")
    scan, received = HelloScan(), bytearray()
    found: int | Incomplete | Rejected = Incomplete()
    for start in range(0, len(hello), step):
        assert found == Incomplete()
        received += hello[start : start + step]
        found = scan.look(received)
    assert found == len(hello)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\xff\xff" + b"a" * MAX_HELLO_BYTES,
        b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * MAX_HELLO_RECORDS,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff",
    ],
)
def test_a_hello_without_measure_is_refused(data: bytes) -> None:
    assert isinstance(HelloScan().look(data), Rejected)
