"""What comes back: a reflected secret is a placeholder again; a redirect is only an answer."""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import json
import urllib.parse
import zlib
from collections.abc import Callable

import pytest
from tests.support.scene import Scene, forms_of
from tests.support.upstream import Received, Upstream, answer

SECRET = "sk-real+/reflected=\"'&9f8e7d6c5b4a"
POLICY = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}


class Mirror:
    """An upstream's handler that sends back what the test says, given the secret it received."""

    def __init__(self) -> None:
        self.head = b""
        self.pieces: list[bytes] = []
        self.chunked = False

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        assert received.header("x-api-key") == SECRET
        head = b"HTTP/1.1 200 OK\r\n" + self.head
        if self.chunked:
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in self.pieces:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
        else:
            body = b"".join(self.pieces)
            writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture(scope="module")
def mirror() -> Mirror:
    return Mirror()


@pytest.fixture
def reflecting(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], mirror: Mirror
) -> Scene:
    good = start_upstream("good.example", handler=mirror)
    return start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})


def encodings(secret: str) -> dict[str, bytes]:
    raw = secret.encode()
    return {
        "plain": raw,
        "twice": raw + raw,
        "in text": b"key=" + raw + b"; x",
        "base64": base64.b64encode(raw),
        "base64 shifted once": base64.b64encode(b"x" + raw),
        "base64 shifted twice": base64.b64encode(b"xy" + raw + b"z"),
        "base64 of basic": base64.b64encode(b"user:" + raw),
        "base64 for urls": base64.urlsafe_b64encode(b"u:" + raw),
        "url": urllib.parse.quote(secret, safe="").encode(),
        "json": json.dumps({"key": secret}).encode(),
        "in html": b"<p>" + raw + b"</p>",
        "url, every character": b"".join(b"%%%02x" % code for code in raw),
        "url, every other character": b"".join(
            b"%%%02X" % code if nth % 2 else b"%c" % code for nth, code in enumerate(raw)
        ),
        "json, every character": b"".join(b"\\u%04x" % code for code in raw),
        "html, every character": b"".join(b"&#%d;" % code for code in raw),
        "html of json of url": html.escape(json.dumps(urllib.parse.quote(secret))).encode(),
        "base64 of a query": base64.b64encode(b"/?k=" + urllib.parse.quote(secret, "").encode()),
        "utf-16": secret.encode("utf-16-le"),
    }


@pytest.mark.attack("reflection")
def test_no_encoding_of_a_reflected_secret_reaches_the_agent(
    reflecting: Scene, mirror: Mirror
) -> None:
    placeholder = reflecting.placeholder("good")
    with reflecting.tunnel("good.example") as wire:
        for name, reflected in encodings(SECRET).items():
            for size in (len(reflected), 1, 2, 3, 7):
                mirror.pieces = [
                    reflected[start : start + size] for start in range(0, len(reflected), size)
                ]
                mirror.chunked = size != len(reflected)
                answered = wire.request(
                    f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
                )
                assert answered.status == 200
                seen = answered.body.replace(b"\0", b"")
                assert placeholder.encode() in seen, (name, size)
                for form in forms_of(SECRET):
                    assert form not in answered.body, (name, size)
                if name in {"plain", "in text", "in html"}:
                    expected = reflected.replace(SECRET.encode(), placeholder.encode())
                    assert answered.body == expected


@pytest.mark.attack("reflection")
def test_reflected_secret_in_headers_and_reason_is_scrubbed(
    reflecting: Scene, mirror: Mirror
) -> None:
    raw = SECRET.encode()
    encoded = base64.b64encode(b"user:" + raw)
    mirror.head = b"X-Echo: %s\r\nLocation: /?k=%s\r\nWWW-Authenticate: %s\r\nLink: <%s>\r\n" % (
        raw, urllib.parse.quote(SECRET, safe="").encode(), encoded,
        b"".join(b"%%%02x" % code for code in raw),
    )  # fmt: skip
    mirror.pieces, mirror.chunked = [b"x"], False
    placeholder = reflecting.placeholder("good")
    answered = reflecting.request("good.example", headers=[("X-Api-Key", placeholder)])
    mirror.head = b""
    assert answered.header("x-echo") == placeholder
    assert answered.header("link") == f"<{placeholder}>"
    assert answered.header("location") == f"/?k={placeholder}"
    for form in forms_of(SECRET):
        assert form not in answered.head


@pytest.mark.attack("reflection")
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression_nobody_asked_for_hides_no_secret(
    reflecting: Scene, mirror: Mirror, coding: str
) -> None:
    text = b"before " + SECRET.encode() + b" after"
    mirror.head = f"Content-Encoding: {coding}\r\n".encode()
    mirror.pieces = [gzip.compress(text) if coding == "gzip" else zlib.compress(text)]
    mirror.chunked = False
    placeholder = reflecting.placeholder("good")
    answered = reflecting.request("good.example", headers=[("X-Api-Key", placeholder)])
    mirror.head = b""
    assert answered.body == b"before " + placeholder.encode() + b" after"
    assert answered.header("content-encoding") is None


@pytest.mark.attack("reflection")
def test_a_coding_that_cannot_be_read_is_not_passed_on(reflecting: Scene, mirror: Mirror) -> None:
    mirror.head, mirror.pieces, mirror.chunked = b"Content-Encoding: compress\r\n", [b"xyz"], False
    placeholder = reflecting.placeholder("good")
    answered = reflecting.request("good.example", headers=[("X-Api-Key", placeholder)])
    mirror.head = b""
    assert (answered.status, answered.reason) == (502, "upstream_failed")
    reflecting.settle()
    (finished,) = reflecting.events("request.finished")
    assert finished["reason"] == "upstream_failed"


@pytest.mark.attack("redirect")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_passed_on_and_the_next_hop_decided_on_its_own(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], status: int
) -> None:
    redirect = b"HTTP/1.1 %d Moved\r\nLocation: https://evil.example/x\r\n" % status
    good = start_upstream("good.example", handler=answer(redirect + b"Content-Length: 0\r\n\r\n"))
    evil = start_upstream("evil.example")
    scene = start_scene(
        POLICY, [good, evil], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET}
    )
    placeholder = scene.placeholder("good")
    answered = scene.request("good.example", headers=[("X-Api-Key", placeholder)])
    assert answered.status == status
    assert answered.header("location") == "https://evil.example/x"
    with scene.wire() as wire:
        denied = wire.connect("evil.example:443")
    assert denied.reason == "host_not_allowed"
    assert scene.connections_seen("evil.example") == 0
    assert [line["reason"] for line in scene.verdicts()] == ["allowed", "host_not_allowed"]


@pytest.mark.attack("redirect")
def test_an_upstream_cannot_forge_the_proxys_own_headers(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    forged = (
        b"HTTP/1.1 403 Forbidden\r\nProxy-Status: understudy; details=\"host_not_allowed\"\r\n"
        b"Understudy-Request-Id: 01FORGED\r\nunderstudy-request-id: 01FORGED\r\n"
        b"Content-Length: 0\r\n\r\n"
    )  # fmt: skip
    good = start_upstream("good.example", handler=answer(forged))
    scene = start_scene(POLICY, [good], {}, environ={"GOOD_KEY": SECRET})
    answered = scene.request("good.example")
    assert answered.status == 403
    assert b"forged" not in answered.head.lower()
    assert answered.header("proxy-status") is None


@pytest.mark.attack("hop-by-hop tricks")
def test_an_unasked_101_opens_no_raw_tunnel(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\nraw"
    good = start_upstream("good.example", handler=answer(switch))
    scene = start_scene(POLICY, [good], {}, environ={"GOOD_KEY": SECRET})
    with scene.tunnel("good.example") as wire:
        wire.send(
            b"GET / HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n"
        )
        answered = wire.read()
        assert answered.reason == "upstream_failed"
        wire.send(b"raw bytes for the upstream")
    scene.settle()
    assert b"raw bytes" not in scene.bytes_seen("good.example")
    assert len(scene.verdicts()) == 1
