"""The request head has one reading, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.reasons import Reason
from understudy.wire.head import HeadReader, looks_like_http, parse_head

MAX_HEADERS = 256


def head(*lines: str | bytes) -> bytes:
    raw = [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    return b"\r\n".join(raw) + b"\r\n\r\n"


def test_a_plain_request_is_read_as_written() -> None:
    parsed = parse_head(
        head("POST /v1/x?q=1 HTTP/1.1", "Host: good.example", "Content-Length: 3"), MAX_HEADERS
    )
    assert parsed is not None
    assert parsed.refusal is None
    assert (parsed.method, parsed.form, parsed.path) == ("POST", "origin", b"/v1/x?q=1")
    assert (parsed.host, parsed.has_body, parsed.content_length) == (b"good.example", True, 3)


def test_only_a_tunnel_of_http_1_0_is_asked_for_without_a_host() -> None:
    heads = ["CONNECT a:443 HTTP/1.0", "CONNECT a:443 HTTP/1.1", "GET / HTTP/1.0"]
    refusals = [parsed.refusal for line in heads if (parsed := parse_head(head(line), MAX_HEADERS))]
    assert refusals == [None, Reason.BAD_HEADER, Reason.BAD_HEADER]
    twice = parse_head(head(heads[0], "Host: a", "Host: a"), MAX_HEADERS)
    assert twice is not None
    assert twice.refusal is Reason.BAD_HEADER


def test_an_absolute_target_keeps_its_authority() -> None:
    parsed = parse_head(
        head("GET http://good.example:80/x HTTP/1.1", "Host: good.example"), MAX_HEADERS
    )
    assert parsed is not None
    assert (parsed.form, parsed.authority, parsed.path) == ("absolute", b"good.example:80", b"/x")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["GET / HTTP/1.1", "Host: a", "Host: b"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "Host: a"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host : a"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", " folded"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: a\rb"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: a\0b"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X\0: b"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "no colon"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "Connection: Authorization"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "Expect: tea"], Reason.BAD_HEADER),
        (
            ["POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Content-Length: 1"],
            Reason.BAD_HEADER,
        ),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 1, 1"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: +1"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 01"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: ٣".encode()], Reason.BAD_HEADER),
        (
            ["POST / HTTP/1.1", "Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"],
            Reason.BAD_HEADER,
        ),
        (["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: xchunked"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"], Reason.BAD_HEADER),
        (["POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"], Reason.BAD_HEADER),
        (["TRACE / HTTP/1.1", "Host: a"], Reason.BAD_METHOD),
        (["get / HTTP/1.1", "Host: a"], Reason.BAD_METHOD),
        (["GET * HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET x HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET /a b HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET / HTTP/1.2", "Host: a"], Reason.BAD_TARGET),
        (["GET ftp://a/ HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (
            ["GET / HTTP/1.1", "Host: a", *[f"X-{n}: y" for n in range(300)]],
            Reason.HEADER_TOO_LARGE,
        ),
    ],
)
def test_an_ambiguous_head_is_refused(lines: list[str | bytes], reason: Reason) -> None:
    parsed = parse_head(head(*lines), MAX_HEADERS)
    assert parsed is not None
    assert parsed.refusal is reason


@pytest.mark.parametrize("line", ["SSH-2.0-OpenSSH_9", "PRI * HTTP/2.0", "\x16\x03\x01", "", "G"])
def test_what_is_not_http_is_no_head(line: str) -> None:
    assert parse_head(head(line), MAX_HEADERS) is None


@pytest.mark.parametrize("start", [b"G", b"GET", b"GET /", b"OPTIONS * ", b"x-y_z "])
def test_a_beginning_of_http_is_waited_for(start: bytes) -> None:
    assert looks_like_http(start)


@pytest.mark.parametrize(
    "start", [b"\x00", b" GET", b"\r\n", b"<html>", b"G\x00", b"A" * 65 + b" /"]
)
def test_what_cannot_become_http_is_known_at_once(start: bytes) -> None:
    assert not looks_like_http(start)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_head_or_none(data: bytes) -> None:
    parsed = parse_head(data + b"\r\n\r\n", MAX_HEADERS)
    assert parsed is None or parsed.method.isascii()


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_a_clean_head_holds_no_control_character_and_one_host(lines: list[bytes]) -> None:
    raw = b"\r\n".join([b"GET / HTTP/1.1", *lines]) + b"\r\n\r\n"
    parsed = parse_head(raw, MAX_HEADERS)
    if parsed is not None and parsed.refusal is None:
        names = [line.partition(b":")[0].lower() for line in raw.split(b"\r\n")]
        assert names.count(b"host") == 1
        assert not any(byte in raw.replace(b"\r\n", b"") for byte in b"\x00\r\n\x0b")


@pytest.mark.attack("slow to read")
@pytest.mark.parametrize(
    "line",
    [
        b"X: b" + b" " * (1 << 20) + b"c",
        b"X:" + b" \t" * (1 << 19) + b"c",
        b"X: " + b"b \t" * (1 << 19),
        b"X: b" + b" " * (1 << 20) + b"\0",
        b"X" * (1 << 20),
    ],
)
def test_no_line_takes_longer_to_read_than_its_length_explains(line: bytes) -> None:
    """Square in the length, a line of a mebibyte would outlast this test's time by days."""
    parsed = parse_head(head("GET / HTTP/1.1", "Host: a", line), MAX_HEADERS)
    assert parsed is not None


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    parsed = parse_head(
        head("POST / HTTP/1.1", "Host: \t a.example \t", "Content-Length:\t3 "), MAX_HEADERS
    )
    assert parsed is not None
    assert (parsed.host, parsed.content_length, parsed.refusal) == (b"a.example", 3, None)


LINES = st.lists(
    st.sampled_from(
        [
            "Host: a",
            "Content-Length: 0",
            "Content-Length: 1",
            "Content-Length: 1234567",
            "content-length: 12",
            "Content-length: 123456789012345",
            "Content-Length: 1234567890123456",
            "Content-Length:12",
            "Content-Length: 012",
            "Content-Length: 1x",
            "X: Content-Length: 12",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Expect: 100-continue",
            "bad line",
            "Accept: */*",
        ]
    ),
    max_size=5,
)
REQUEST_LINES = st.sampled_from(
    ["POST /x HTTP/1.1", "GET / HTTP/1.0", "CONNECT a:443 HTTP/1.1", "nonsense", "TRACE / HTTP/1.1"]
)


@given(st.lists(st.tuples(REQUEST_LINES, LINES, st.sampled_from([2, 256])), max_size=12))
def test_a_head_that_is_known_already_is_read_as_any_other(
    requests: list[tuple[str, list[str], int]],
) -> None:
    reader = HeadReader()
    for request_line, lines, max_headers in [*requests, *requests, *requests]:
        raw = head(request_line, *lines)
        expected = parse_head(raw, max_headers)
        for found in (
            reader.recall(raw, max_headers) or reader.read(raw, max_headers),
            reader.recall(raw, max_headers) or expected,
        ):
            assert (found and found._replace(outline=None)) == expected


def test_heads_that_differ_in_their_length_alone_have_one_outline() -> None:
    reader = HeadReader()
    raws = [head("POST / HTTP/1.1", "Host: a", f"Content-Length: {n}", "X: y") for n in (7, 65536)]
    first = reader.read(raws[0], 256)
    assert first is not None
    assert first.outline is None  # it may never come again
    assert reader.recall(raws[0], 256) is None
    second = reader.read(raws[1], 256)
    again = reader.recall(raws[1], 256)
    assert second is not None
    assert again is not None
    assert again == second
    assert again.outline is second.outline
    assert again.fields == ((b"Host", b"a"), (b"Content-Length", b"65536"), (b"X", b"y"))
    assert reader.recall(head("POST / HTTP/1.1", "Host: a", "Content-Length: 9"), 256) is None


def test_what_is_remembered_does_not_grow_with_what_clients_send() -> None:
    reader = HeadReader()
    long = head("GET / HTTP/1.1", "Host: a", "X: " + "x" * 5000)
    for number in range(10_000):
        for _ in range(1 + (number < 2000)):
            reader.read(head(f"GET /{number} HTTP/1.1", "Host: a"), 256)
    for _ in range(3):
        reader.read(long, 256)
        reader.read(head("GET /refused HTTP/1.1", "Host: a", "Host: b"), 256)
    assert len(reader._known) <= 256
    assert len(reader._came_once) <= 4096
    assert reader.recall(long, 256) is None
    assert reader.recall(head("GET /refused HTTP/1.1", "Host: a", "Host: b"), 256) is None
