"""Invariant 18: errors to the client name no address, errno, version or secret."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import mitmproxy.version
import pytest
from tests.support.client import Answer
from tests.support.scene import Scene
from tests.support.upstream import Upstream, answer

from understudy import VERSION

TELLING = re.compile(
    "|".join(
        [
            r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b", r"\[Errno", r"errno", r"mitmproxy",
            r"python", r"openssl", r"Traceback", r"\.py\b", r"refused\b", r"certificate",
            r"Connect call",
            r"/home|/tmp|/work", r"\b0x[0-9a-f]{4}", re.escape(mitmproxy.version.VERSION),
            re.escape(sys.version.split()[0]), rf"\b{re.escape(VERSION)}\b",
        ]
    ),
    re.IGNORECASE,
)  # fmt: skip
HEADS = [
    "GET /v1/x HTTP/1.1\nHost: evil.example",
    "GET /v1/x HTTP/1.1\nHost: good.example:1",
    "GET /v1/../x HTTP/1.1\nHost: good.example",
    "GET x HTTP/1.1\nHost: good.example",
    "TRACE / HTTP/1.1\nHost: good.example",
    "GET / HTTP/1.1\nHost: good.example\nHost: good.example",
    "GET / HTTP/1.1\nHost: good.example\nX-Api-Key: other",
    "GET / HTTP/1.1\nHost: good.example\nX-Debug: {good}",
    "GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {twin}",
    "GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {good}\nAuthorization: x",
    "PROPFIND / HTTP/1.1\nHost: good.example",
    "POST / HTTP/1.1\nHost: good.example\nContent-Length: 1\nContent-Length: 2",
    "GET / HTTP/1.1\nHost: good.example\nX: {big}",
]


def expect_silent(answered: Answer) -> None:
    text = (answered.head + b"\n" + answered.body).decode("latin-1")
    # The status line has a version, HTTP's own.
    text = text.removeprefix("HTTP/1.1")
    assert not TELLING.search(text), TELLING.search(text)
    assert answered.header("server") is None
    assert answered.header("via") is None


@pytest.mark.attack("telling errors")
@pytest.mark.parametrize("head", HEADS)
def test_a_denial_tells_nothing_of_the_proxy(scene: Scene, head: str) -> None:
    written = head.format(
        good=scene.placeholder("good"), twin=scene.placeholder("twin"), big="x" * 70000
    )
    with scene.tunnel("good.example") as wire:
        answered = wire.request(written)
    assert answered.status >= 400
    assert scene.placeholder("good") not in answered.body.decode()
    expect_silent(answered)


@pytest.mark.parametrize("authority", ["evil.example:443", "good.example:22", "x y:1", "[::1]:443"])
def test_a_refused_tunnel_tells_nothing_of_the_proxy(scene: Scene, authority: str) -> None:
    with scene.wire() as wire:
        answered = wire.connect(authority)
    assert answered.status >= 400
    # An agent may read its own words in the answer; nothing else.
    answered.body = answered.body.replace(authority.rpartition(":")[0].encode(), b"")
    expect_silent(answered)


def test_a_guarded_address_is_not_named(scene: Scene) -> None:
    answered = scene.request("guarded.example")
    assert answered.reason == "address_denied"
    expect_silent(answered)


@pytest.mark.attack("telling errors")
@pytest.mark.parametrize(
    "raw",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n", b"HTTP/1.1 200 OK\r\nConten"],
)
def test_a_failed_upstream_is_not_described(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], raw: bytes
) -> None:
    good = start_upstream("good.example", handler=answer(raw, close=True))
    scene = start_scene({"allow": [{"name": "good", "hosts": ["good.example"]}]}, [good], {})
    answered = scene.request("good.example")
    assert (answered.status, answered.reason) == (502, "upstream_failed")
    expect_silent(answered)
