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
        head("GET http://good.example:80/x/y HTTP/1.1", "Host: good.example"), MAX_HEADERS
    )
    assert parsed is not None
    assert (parsed.form, parsed.authority, parsed.path) == ("absolute", b"good.example:80", b"/x/y")


def test_of_a_line_that_cannot_be_read_the_audit_has_what_can_be() -> None:
    parsed = parse_head(head("GET /a b HTTP/1.1", "Host: a"), MAX_HEADERS)
    assert parsed is not None
    assert (parsed.method, parsed.form, parsed.target) == ("GET", "origin", b"/a b HTTP/1.1")
    assert parsed.has_body  # for all that is known, so nothing behind it is read


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
        (["get / HTTP/1.1", "Host: a", "no colon"], Reason.BAD_METHOD),
        (["get / HTTP/1.1", "Host: a", "Content-Length: x"], Reason.BAD_METHOD),
        (["get / HTTP/1.1", "Host: a", "Expect: tea"], Reason.BAD_METHOD),
        (["get / HTTP/1.1", "Host: a", "Host: b"], Reason.BAD_METHOD),
        (["get / HTTP/1.1", "Host: a", *["X: y"] * 256], Reason.BAD_METHOD),
        (["GET * HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET x HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET /a b HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET / HTTP/1.2", "Host: a"], Reason.BAD_TARGET),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 1" + "0" * 18], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Content-Length: 00"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Content-Length:"], Reason.BAD_HEADER),
        (["POST / HTTP/1.1", "Host: a", "Transfer-Encoding:"], Reason.BAD_HEADER),
        (
            ["POST / HTTP/1.1", "Host: a", *["Transfer-Encoding: chunked"] * 2],
            Reason.BAD_HEADER,
        ),
        (["GET / HTTP/1.1", "Host: a", "Proxy-Connection: X-Api-Key"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "Connection: close, Host"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", *["Expect: 100-continue"] * 2], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X(: 1"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", ": 1"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: \x7f"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: \x08"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: \x1f"], Reason.BAD_HEADER),
        (["GET / HTTP/1.1", "Host: a", "X: " + "y" * 500 + "\x00"], Reason.BAD_HEADER),
        (["A" * 33 + " / HTTP/1.1", "Host: a"], Reason.BAD_METHOD),
        (["A1 / HTTP/1.1", "Host: a"], Reason.BAD_METHOD),
        (["-A / HTTP/1.1", "Host: a"], Reason.BAD_METHOD),
        (["GET /a?x=\xff HTTP/1.1", "Host: a"], Reason.PATH_NOT_CANONICAL),
        (["GET /\x7f HTTP/1.1", "Host: a"], Reason.PATH_NOT_CANONICAL),
        (["GET /?\x00 HTTP/1.1", "Host: a"], Reason.PATH_NOT_CANONICAL),
        (["GET /?a#b HTTP/1.1", "Host: a"], Reason.PATH_NOT_CANONICAL),
        (["GET http://a HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET http:///x HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET http://u@a/ HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["GET //a/x HTTP/1.1 ", "Host: a"], Reason.BAD_TARGET),
        (["CONNECT a HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["CONNECT http://a:443/ HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["CONNECT a:443/ HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
        (["OPTIONS * HTTP/1.1", "Host: a"], Reason.BAD_TARGET),
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


@pytest.mark.parametrize(
    "line",
    [
        "A" * 32 + " / HTTP/1.1",
        "M-SEARCH / HTTP/1.1",
        "GET /!~?!~ HTTP/1.1",
        "GET HTTPS://a/ HTTP/1.1",
        "CONNECT a:443 HTTP/1.1",
    ],
)
@pytest.mark.parametrize(
    "field",
    [
        "!#$%&'*+-.^_`|~09azAZ: \t\x80\xff ~!",
        "X: " + "y" * 500,
        "X:",
        "Content-Length: 0",
        "Content-Length: 123456789012345678",
        "Transfer-Encoding: CHUNKED",
        "Expect: 100-Continue",
        "Connection: close",
        "Connection: ,Keep-Alive ,, TE,trailers\t, Upgrade, HTTP2-Settings",
        "Proxy-Connection: keep-alive",
    ],
)
def test_a_clean_head_is_not_refused(line: str, field: str) -> None:
    others = [f"X-{number}: y" for number in range(254)]
    parsed = parse_head(head(line, "Host: a", field, *others), MAX_HEADERS)
    assert parsed is not None
    assert parsed.refusal is None
    assert len(parsed.fields) == 256
    name, _, value = field.partition(":")
    assert parsed.fields[1] == (name.encode(), value.strip(" \t").encode("latin-1"))
    one_more = parse_head(head(line, "Host: a", field, *others, "X: y"), MAX_HEADERS)
    assert one_more is not None
    assert (one_more.refusal, one_more.fields) == (Reason.HEADER_TOO_LARGE, ())


@pytest.mark.parametrize(
    ("fields", "version", "keeps_alive"),
    [
        ([], "1.1", True),
        ([], "1.0", False),
        (["Connection: keep-alive"], "1.0", False),
        (["Connection: keep-alive"], "1.1", True),
        (["Connection: close"], "1.1", False),
        (["Connection: te, CLOSE"], "1.1", False),
        (["Proxy-Connection: close"], "1.1", False),
        (["Connection: te", "Connection: close"], "1.1", False),
    ],
)
def test_whether_the_connection_goes_on_is_what_the_client_says(
    fields: list[str], version: str, keeps_alive: bool
) -> None:
    parsed = parse_head(head(f"GET / HTTP/{version}", "Host: a", *fields), MAX_HEADERS)
    assert parsed is not None
    assert parsed.keeps_alive is keeps_alive
    assert parsed.minor_version == int(version[-1])


@pytest.mark.parametrize(
    ("value", "logs_in"),
    [
        ("NTLM TlRMTVNTUAAB", True),
        ("ntlm", True),
        ("Negotiate YII=", True),
        ("NEGOTIATE", True),
        ("Bearer NTLM", False),
        ("Basic bnRsbTpudGxt", False),
        ("", False),
    ],
)
def test_a_login_of_the_connection_is_known_by_its_scheme(value: str, logs_in: bool) -> None:
    parsed = parse_head(
        head("GET / HTTP/1.1", "Host: a", "authorization: Basic x", f"Authorization: {value}"),
        MAX_HEADERS,
    )
    assert parsed is not None
    assert parsed.logs_connection_in is logs_in


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    "Host: a",
    "Upgrade: WebSocket",
    "Connection: keep-alive, Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
]


@pytest.mark.parametrize(
    ("line", "lines", "opens"),
    [
        ("GET / HTTP/1.1", HANDSHAKE, True),
        ("POST / HTTP/1.1", HANDSHAKE, False),
        ("GET / HTTP/1.0", HANDSHAKE, False),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Content-Length: 0"], True),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Content-Length: 1"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Transfer-Encoding: chunked"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Expect: 100-continue"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Upgrade: h2c"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE, f"Sec-WebSocket-Key: {KEY}"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE, "Sec-WebSocket-Version: 12"], False),
        ("GET / HTTP/1.1", [*HANDSHAKE[:1], *HANDSHAKE[2:]], False),
        ("GET / HTTP/1.1", [*HANDSHAKE[:2], *HANDSHAKE[3:]], False),
        ("GET / HTTP/1.1", [*HANDSHAKE[:3], *HANDSHAKE[4:]], False),
        ("GET / HTTP/1.1", HANDSHAKE[:4], False),
    ],
)
def test_only_a_proper_handshake_has_a_websockets_key(
    line: str, lines: list[str], opens: bool
) -> None:
    parsed = parse_head(head(line, *lines), MAX_HEADERS)
    assert parsed is not None
    assert parsed.websocket_key == (KEY.encode() if opens else None)


@pytest.mark.parametrize(
    ("fields", "has_body", "length", "expects"),
    [
        ([], False, None, False),
        (["Content-Length: 0"], False, 0, False),
        (["Content-Length: 10"], True, 10, False),
        (["transfer-ENCODING: Chunked"], True, None, False),
        (["content-LENGTH:7", "expect: 100-CONTINUE"], True, 7, True),
    ],
)
def test_whether_a_body_follows_is_what_the_framing_says(
    fields: list[str], has_body: bool, length: int | None, expects: bool
) -> None:
    parsed = parse_head(head("POST / HTTP/1.1", "HOST: a", *fields), MAX_HEADERS)
    assert parsed is not None
    assert (parsed.refusal, parsed.has_body, parsed.content_length) == (None, has_body, length)
    assert parsed.expects_continue is expects


@pytest.mark.parametrize("line", ["SSH-2.0-OpenSSH_9", "PRI * HTTP/2.0", "\x16\x03\x01", "", "G"])
def test_what_is_not_http_is_no_head(line: str) -> None:
    assert parse_head(head(line), MAX_HEADERS) is None


@pytest.mark.parametrize(
    "start",
    [b"G", b"GET", b"GET /", b"OPTIONS * ", b"x-y_z ", b"!#$%&'*+-.^_`|~09azAZ", b"A" * 64,
     b"A" * 64 + b" ", b"!#$%&'*+-.^_`|~09azAZ ", b"GET / HTTP/1.1\r\n", b"GET / HTTP/9\r\nHost"],
)  # fmt: skip
def test_a_beginning_of_http_is_waited_for(start: bytes) -> None:
    assert looks_like_http(start)


@pytest.mark.parametrize(
    "start",
    [
        b"\x00",
        b" GET",
        b"\r\n",
        b"<html>",
        b"G\x00",
        b"A" * 65,
        b"A" * 65 + b" /",
        b"GET /\r\n",
        b"G\x00 / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\r\n / HTTP/1.1\r\n",
    ],
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


def test_a_head_is_not_known_any_more_under_another_limit() -> None:
    reader = HeadReader()
    raw = head("GET / HTTP/1.1", "Host: a", "X: y", "Z: y")
    assert [reader.read(raw, 256) for _ in range(2)][1] is not None
    assert reader.recall(raw, 2) is None
    refused = reader.read(raw, 2)
    assert refused is not None
    assert refused.refusal is Reason.HEADER_TOO_LARGE
    assert reader.recall(raw, 2) is None


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
