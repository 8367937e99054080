"""Where a head ends and whether a ClientHello is there, whatever the pieces that they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.client import client_hello

from understudy.reasons import Reason
from understudy.wire.hello import MAX_HELLO_BYTES, MAX_HELLO_RECORDS, HelloScan
from understudy.wire.scan import INCOMPLETE, HeadScan, Incomplete, Rejected

LIMIT = 200
LINE_END = "a line ends without CR"
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


HEAD = b"GET / HTTP/1.1\r\nX: y\r\n\r\n"
LONGEST = b"GET / HTTP/1.1\r\nX: ".ljust(LIMIT - 4, b"x") + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"G", INCOMPLETE),
        (b"GET", INCOMPLETE),
        (b"GET ", INCOMPLETE),
        (b"A" * 64, INCOMPLETE),
        (b"A" * 64 + b" /", INCOMPLETE),
        (HEAD[:-1], INCOMPLETE),
        (HEAD, len(HEAD)),
        (HEAD + b"body\n\r\n\r\n", len(HEAD)),
        (b"GET / HTTP/1.1\r\n\r\n", 18),
        (LONGEST, LIMIT),
        (LONGEST[:-4] + b"x\r\n\r\n", Rejected(Reason.HEADER_TOO_LARGE)),
        (b"GET /" + b"x" * LIMIT, Rejected(Reason.HEADER_TOO_LARGE)),
        (b"\x16", Rejected(Reason.NOT_HTTP)),
        (b"\r\n", Rejected(Reason.NOT_HTTP)),
        (b" GET / HTTP/1.1\r\n\r\n", Rejected(Reason.NOT_HTTP)),
        (b"A" * 65, Rejected(Reason.NOT_HTTP)),
        (b"A" * 65 + b" / HTTP/1.1\r\n", Rejected(Reason.NOT_HTTP)),
        (b"GET /\r\n", Rejected(Reason.NOT_HTTP)),
        (b"G\nT / HTTP/1.1\r\n\r\n", Rejected(Reason.NOT_HTTP)),
        (b"GET / HTTP/1.1\n", Rejected(Reason.BAD_HEADER, LINE_END)),
        (b"GET / HTTP/1.1\r\nX: y\n\r\n", Rejected(Reason.BAD_HEADER, LINE_END)),
        (b"GET / HTTP/1.1\r\nX: \ny\r\n\r\n", Rejected(Reason.BAD_HEADER, LINE_END)),
        (b"GET / HTTP/1.1\r\n\n\r\n\r\n", Rejected(Reason.BAD_HEADER, LINE_END)),
    ],
)
def test_where_a_head_ends_and_what_is_none(
    data: bytes, found: int | Incomplete | Rejected
) -> None:
    assert HeadScan().look(data, LIMIT) == found
    assert look_bytewise(data) == found
    for cut in range(1, len(data)):
        scan = HeadScan()
        first = scan.look(data[:cut], LIMIT)
        assert (scan.look(data, LIMIT) if first == INCOMPLETE else first) == found


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


RECORD = b"\x16\x03\x01\x00\x01"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", INCOMPLETE),
        (RECORD, INCOMPLETE),
        (RECORD + b"\x01", 6),
        (RECORD + b"\x01" + RECORD, 6),
        (RECORD + b"\x01" + RECORD + b"\x02", 12),
        (RECORD + b"\x01" + (RECORD + b"\x00") * (MAX_HELLO_RECORDS - 1), 6 * MAX_HELLO_RECORDS),
        (b"\x16\x03\x01\x00\x05\x01\x00\x40\x00x", 10),
        (b"\x16\x03\x01\x3f\xfb\x01".ljust(MAX_HELLO_BYTES, b"\0"), MAX_HELLO_BYTES),
    ],
)
def test_whole_records_are_counted(data: bytes, found: int | Incomplete) -> None:
    scan = HelloScan()
    assert scan.look(data) == found
    assert scan.look(data) == INCOMPLETE  # nothing more came whole


@pytest.mark.parametrize(
    "data",
    [
        RECORD + b"\x02",
        b"\x16\x03\x01\x00\x05\x01\x00\x40\x01x",
        b"\x16\x03\x01\x3f\xfb\x01".ljust(MAX_HELLO_BYTES + 1, b"\0"),
        b"\x16\x03\x01\xff\xff" + b"a" * MAX_HELLO_BYTES,
        b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * MAX_HELLO_RECORDS,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff",
    ],
)
def test_a_hello_without_measure_is_refused(data: bytes) -> None:
    found = HelloScan().look(data)
    assert isinstance(found, Rejected)
    assert found.reason is Reason.NOT_HTTP
