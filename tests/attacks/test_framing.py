"""Framing: one decision is one request upstream; what parsers read differently is refused."""

from __future__ import annotations

import pytest
from tests.support.scene import Scene

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: good.example\r\n\r\n"


def raw(scene: Scene, host: str, head: bytes, body: bytes = b"") -> str:
    with scene.tunnel(host) as wire:
        return wire.request(head, body).reason


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: +5"],
        [b"Content-Length: -5"],
        [b"Content-Length: 5 5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length: 5_0"],
        [b"Content-Length: "],
        [b"Content-Length: 99999999999999999999"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"Transfer-Encoding : chunked"],
        [b"Transfer-Encoding:\r\n chunked"],
        [b"X: y", b" folded"],
        [b" X: y"],
        [b"\tX: y"],
        [b"X : y"],
        [b"X: a\rb"],
        [b"X: a\x00b"],
        [b"X\x00: a"],
        [b"X: a\nContent-Length: 5"],
        [b"X(: y"],
        [b": y"],
        [b"no colon"],
        [b"X\xff: y"],
        [b"Content-Length: 5", b"Transfer_Encoding: chunked"],
        [b"Content-Length: 5", b"content_length: 0"],
        [b"Content-Length: 5\x0b"],
        [b"Transfer-Encoding: chunked\x0b"],
        [b"Transfer-Encoding: \xa0chunked"],
        [b"Transfer-Encoding: chunked,"],
        [b"Transfer-Encoding: ,chunked"],
    ],
)
def test_ambiguous_framing_is_refused_and_nothing_goes_up(scene: Scene, lines: list[bytes]) -> None:
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: good.example", *lines]) + b"\r\n\r\n"
    reason = raw(scene, "good.example", head, b"0\r\n\r\n" + SMUGGLED)
    line = scene.verdict()
    assert reason == line["reason"] == "bad_header"
    scene.expect_nothing_upstream()


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b"GET /\tHTTP/1.1",
        b"GET / HTTP/1.1\x00",
        b"GET / HTTP/9.9",
        b"GET / HTTP/1.10",
        b"GET / http/1.1",
        b"GET /",
        b"GET / x HTTP/1.1",
    ],
)
def test_odd_request_line_is_refused(scene: Scene, line: bytes) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(line + b"\r\nHost: good.example\r\n\r\n")
        answered = wire.read_until_closed()
    assert answered == b"" or answered.startswith(b"HTTP/1.1 400 ")
    assert scene.verdict()["verdict"] == "deny"
    scene.expect_nothing_upstream()


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize("end", [b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_bare_newlines_do_not_end_a_head(scene: Scene, end: bytes) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: good.example" + end)
        answer = wire.read()
    scene.expect_denied(answer, "bad_header", event="connection.rejected")


@pytest.mark.attack("chunk tricks")
@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
        b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        b"5\r\nhellooo\r\n0\r\n\r\n",
        b"xyz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"5\r\nhello\r\n0\r\n\r\r\n",
        b"5\r\nhello\r\n0\r\n y\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0_5\r\nhello\r\n0\r\n\r\n",
        b"100000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n;\r\n\r\n",
        b"5\r\nhello\r\n-0\r\n\r\n",
    ],
)
def test_bad_chunks_end_the_request_and_smuggle_nothing(scene: Scene, chunks: bytes) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(
            b"POST / HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunks
            + SMUGGLED
        )
        answered = wire.read_until_closed()
    assert b"200 OK" not in answered
    assert len(scene.verdicts()) == 1
    assert b"smuggled" not in scene.bytes_seen("good.example")
    assert b"Authorization" not in scene.bytes_seen("good.example")


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED", "\tchunked "])
def test_a_coding_goes_up_in_the_one_spelling_that_every_server_knows(
    scene: Scene, value: str
) -> None:
    with scene.tunnel("other.example") as wire:
        wire.send(
            f"POST / HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding:{value}\r\n".encode()
        )
        assert wire.send(b"\r\n5\r\nhello\r\n0\r\n\r\n").read().status == 200
    (received,) = scene.expect_allowed("other.example")
    assert b"\r\nTransfer-Encoding: chunked\r\n" in received.raw_head


@pytest.mark.attack("smuggling")
@pytest.mark.engine("express")
def test_http_1_0_is_not_told_to_go_on(scene: Scene) -> None:
    head = "POST / HTTP/1.0\nHost: other.example\nExpect: 100-continue\nContent-Length: 5"
    with scene.tunnel("other.example") as wire:
        assert wire.request(head, b"hello").status == 200
    (received,) = scene.expect_allowed("other.example")
    assert received.headers("expect") == []


@pytest.mark.attack("chunk tricks")
@pytest.mark.parametrize("tls", [True, False])
def test_what_has_bad_chunks_is_answered_once(scene: Scene, tls: bool) -> None:
    """A second answer would be the next one: allowed with TLS, refused at its head without."""
    wire = scene.wire()
    assert wire.connect("other.example:443").status == 200
    if tls:
        wire.start_tls("other.example")
    wire.send(
        b"POST / HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhell0\r\n\r\no\r\n3;a=b\r\nabc\r\n0\r\n\r\n"
    )
    answer = wire.read()
    assert wire.read_until_closed() == b""
    assert answer.reason == ("bad_header" if tls else "tls_required")
    assert scene.verdict()["request_id"] == answer.json["understudy"]["request_id"]


@pytest.mark.attack("smuggling")
def test_pipelined_requests_are_each_decided_on_their_own(scene: Scene) -> None:
    first = b"GET /1 HTTP/1.1\r\nHost: good.example\r\n\r\n"
    second = b"GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    with scene.tunnel("good.example") as wire:
        wire.send(first + second)
        assert wire.read().status == 200
        assert wire.read().reason == "host_mismatch"
    assert [line["reason"] for line in scene.verdicts()] == ["allowed", "host_mismatch"]
    assert [r.target for r in scene.seen("good.example")] == ["/1"]


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize(
    "start",
    [
        "GET / HTTP/1.1\r\nConnection: close",
        "GET / HTTP/1.1\r\nConnection: keep-alive, Close",
        "GET / HTTP/1.0",
        "GET /private/x HTTP/1.1\r\nConnection: close",
    ],
)
def test_nothing_is_read_behind_a_clients_last_request(scene: Scene, start: str) -> None:
    """RFC 9112 9.6: and a client that reads until the end is not kept waiting for it."""
    head = f"{start}\r\nHost: other.example\r\n\r\n".encode()
    with scene.tunnel("other.example") as wire:
        wire.send(head + b"GET /behind HTTP/1.1\r\nHost: other.example\r\n\r\n")
        answered = wire.read_until_closed()
    assert answered.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answered.lower()
    assert len(scene.verdicts()) == 1
    assert b"behind" not in scene.bytes_seen("other.example")


@pytest.mark.attack("hop-by-hop tricks")
@pytest.mark.parametrize(
    "value",
    ["Authorization", "X-Api-Key", "close, X-Api-Key", "Host", "Content-Length", "x-anything"],
)
def test_connection_may_not_name_headers_for_removal(scene: Scene, value: str) -> None:
    answer = scene.request(
        "good.example",
        headers=[("Connection", value), ("X-Api-Key", scene.placeholder("good"))],
    )
    scene.expect_denied(answer, "bad_header")


@pytest.mark.attack("hop-by-hop tricks")
@pytest.mark.parametrize("value", ["h2c", "H2C", "h2C, foo", "websocket", "foo", "TLS/1.0"])
def test_upgrades_are_not_passed_on(scene: Scene, value: str) -> None:
    answer = scene.request(
        "good.example",
        headers=[
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", value),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ],
    )
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.headers("upgrade") == received.headers("connection") == []
    assert received.headers("http2-settings") == []


@pytest.mark.attack("hop-by-hop tricks")
def test_hop_by_hop_headers_stay_here(scene: Scene) -> None:
    names = ["Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "TE", "Trailer"]
    answer = scene.request("good.example", headers=[(name, "close") for name in names])
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    for name in names:
        assert received.headers(name) == []


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize("value", ["200-ok", "100-continue, 100-continue", "100-Continue-x"])
def test_odd_expectations_are_refused(scene: Scene, value: str) -> None:
    answer = scene.request("good.example", headers=[("Expect", value)])
    scene.expect_denied(answer, "bad_header")
