"""A WebSocket opens only where a rule, a proper handshake and a true answer meet."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.client import Answer
from tests.support.proxy import Proxy
from tests.support.scene import Scene, expect_no_secret_written, forms_of
from tests.support.upstream import Received, Upstream
from tests.support.websocket import (
    ACCEPT,
    KEY,
    POLICY,
    SECRET,
    accepted,
    client_frame,
    handshake,
    open_websocket,
    server_frame,
)

pytestmark = pytest.mark.engine("express")
"""Of the two engines the one that carries WebSockets."""

type Talk = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Any]
type Start = Callable[..., Scene]

CLOSE = server_frame(b"\x03\xe8", 8)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: good.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Upstreams:
    """Does as the test says, byte by byte; what comes behind a 101 is in ``heard``."""

    def begin(self, talk: Talk) -> None:
        """Do this from now on; what was heard before counts no more."""
        self._talk, self._heard = talk, bytearray()

    @property
    def heard(self) -> bytes:
        return bytes(self._heard)

    async def __call__(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heard = self._heard
        if await self._talk(received, reader, writer) and not writer.is_closing():
            while data := await reader.read(1 << 16):
                heard += data
            writer.close()


class Place:
    """A proxy on one engine, and its upstreams; shared by the tests of this module."""

    def __init__(self, ca: trustme.CA, ca_file: Path, folder: Path, engine: str) -> None:
        self.conversation = Upstreams()
        self._stack = ExitStack()
        self.upstreams = {
            name: self._stack.enter_context(Upstream(name, ca, conversation=self.conversation))
            for name in ("good.example", "free.example")
        }
        policy = complete_policy(POLICY, list(self.upstreams.values()), ca_file)
        proxy = Proxy(policy, folder, engine, environ={"GOOD_KEY": SECRET})
        self.proxy = self._stack.enter_context(proxy)

    def close(self) -> None:
        with self._stack:
            expect_no_secret_written(self.proxy, [SECRET])


@pytest.fixture(scope="module")
def place(
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[Place]:
    place = Place(upstream_ca, upstream_ca_file, tmp_path_factory.mktemp(engine), engine)
    yield place
    place.close()


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Let the upstreams do as the test says, and watch: ``start(talk)``."""
    scenes: list[Scene] = []

    def start_it(talk: Talk) -> Scene:
        place.conversation.begin(talk)
        scenes.append(Scene(place.proxy, place.upstreams, {SECRET: ["good.example"]}))
        return scenes[-1]

    yield start_it
    for scene in scenes:
        scene.leave()


def say(raw: bytes, *, then_close: bool = False) -> Talk:
    """An upstream that answers every request with ``raw`` and listens on."""

    async def talk(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        await writer.drain()
        if then_close:
            writer.close()
        return raw.startswith(b"HTTP/1.1 101")

    return talk


def expect_plain(scene: Scene, answer: Answer, host: str = "good.example") -> None:
    """The request went up without its upgrade, and was answered."""
    assert (answer.status, answer.body) == (200, b"ok")
    (received,) = scene.expect_allowed(host)
    assert received.headers("upgrade") == received.headers("connection") == []


# -- the request


@pytest.mark.attack("websocket")
def test_without_its_rule_a_handshake_is_a_plain_request(start: Start) -> None:
    scene = start(say(OK))
    answer = scene.tunnel("good.example").request(handshake(scene, path="/elsewhere"))
    expect_plain(scene, answer)


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "foo"},
        {"Upgrade": "h2c"},
        {"Upgrade": "websocket, h2c"},
        {"Upgrade": "websocket/13"},
        {"Upgrade": None},
        {"Connection": None},
        {"Connection": "keep-alive"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "12"},
        {"Sec_WebSocket_Version": "13, 8"},
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Key": "c2hvcnQ="},
        {"Sec_WebSocket_Key": KEY[:-3] + "x=="},
        {"Sec_WebSocket_Key": KEY + "AAAA"},
        {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZR=="},
        {"Sec_WebSocket_Key": KEY + "\r\nSec-WebSocket-Key: " + KEY},
        {"Upgrade": "websocket\r\nUpgrade: websocket"},
        {"Upgrade": "websocket\r\nUpgrade: h2c"},
    ],
)
def test_what_is_no_proper_handshake_is_a_plain_request(
    start: Start, changes: dict[str, str | None]
) -> None:
    scene = start(say(OK))
    answer = scene.tunnel("good.example").request(handshake(scene, **changes))
    expect_plain(scene, answer)


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET", b"POST"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"),
    ],
)
def test_only_a_get_of_http11_without_a_body_is_a_handshake(
    start: Start, old: bytes, new: bytes
) -> None:
    async def talk(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readexactly(int(received.header("content-length") or 0))
        writer.write(OK)

    scene = start(talk)
    wire = scene.tunnel("good.example").send(handshake(scene).replace(old, new, 1))
    expect_plain(scene, wire.read())


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    "protocol",
    [
        "realtime, openai-insecure-api-key.sk-own0123456789abcdef",
        "base64url.bearer.authorization.k8s.io.c29tZXRva2Vu",
        "chat, sk-own",
        "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
        "0123456789abcdef0123456789abcdef",
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_no_key_reaches_a_bound_host_as_a_subprotocol(
    start: Start, protocol: str, beside: bool
) -> None:
    scene = start(say(OK))
    changes: dict[str, str | None] = {"Sec_WebSocket_Protocol": protocol}
    if not beside:
        changes["Authorization"] = None
    answer = scene.tunnel("good.example").request(handshake(scene, **changes))
    scene.expect_denied(answer, "ambiguous_credential" if beside else "foreign_credential")


@pytest.mark.attack("websocket")
def test_the_placeholder_as_a_subprotocol_goes_nowhere(start: Start) -> None:
    scene = start(say(OK))
    protocol = f"realtime, openai-insecure-api-key.{scene.placeholder('good')}"
    raw = handshake(scene, Sec_WebSocket_Protocol=protocol, Authorization=None)
    scene.expect_denied(scene.tunnel("good.example").request(raw), "placeholder_misplaced")


@pytest.mark.attack("websocket")
def test_what_is_sent_before_the_101_goes_nowhere(start: Start, place: Place) -> None:
    scene = start(say(accepted()))
    wire = scene.tunnel("good.example")
    wire.send(handshake(scene) + client_frame(b"early"))
    answer = wire.read()
    assert wire.read_until_closed() == b""
    assert (answer.status, answer.reason) == (400, "bad_header")
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (400, "bad_header")
    assert finished["detail"] == "the client spoke before the 101"
    assert place.conversation.heard == b""


@pytest.mark.attack("websocket")
def test_a_request_behind_a_refused_handshake_is_decided_on_its_own(start: Start) -> None:
    scene = start(say(OK))
    wire = scene.tunnel("good.example")
    wire.send(handshake(scene) + SMUGGLED.replace(b"good.example", b"evil.example"))
    assert wire.read().body == b"ok"
    assert wire.read().reason == "host_mismatch"
    assert [line["reason"] for line in scene.verdicts()] == ["allowed", "host_mismatch"]
    assert b"smuggled" not in scene.bytes_seen("good.example")


# -- the answer


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    "raw",
    [
        accepted(accept="x" * 28),
        accepted(accept=""),
        accepted().replace(b"Sec-WebSocket-Accept", b"X-Accept"),
        accepted(f"Sec-WebSocket-Accept: {ACCEPT}"),
        accepted().replace(b"Upgrade: websocket\r\n", b""),
        accepted().replace(b"Upgrade: websocket\r\n", b"Upgrade: foo\r\n"),
        accepted().replace(b"Connection: Upgrade\r\n", b""),
        accepted().replace(b"Connection: Upgrade\r\n", b"Connection: close\r\n"),
        accepted("Sec-WebSocket-Extensions: permessage-deflate"),
        accepted("Content-Length: 5"),
        accepted("Transfer-Encoding: chunked"),
    ],
)
@pytest.mark.parametrize("host", ["good.example", "free.example"])
def test_a_wrong_101_opens_nothing(start: Start, place: Place, raw: bytes, host: str) -> None:
    scene = start(say(raw + b"raw " + SECRET.encode()))
    wire = scene.tunnel(host)
    answer = wire.request(handshake(scene, host))
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    wire.send(b"raw bytes for the upstream")
    scene.settle()
    assert place.conversation.heard == b""
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (502, "upstream_failed")
    assert len(scene.verdicts()) == 1


@pytest.mark.attack("websocket")
@pytest.mark.parametrize("path", ["/elsewhere", "/live/x"])
def test_a_101_that_nobody_asked_for_opens_nothing(start: Start, path: str) -> None:
    scene = start(say(accepted() + server_frame(SECRET.encode())))
    wire = scene.tunnel("good.example")
    upgrade = "websocket" if path == "/elsewhere" else None
    answer = wire.request(handshake(scene, path=path, Upgrade=upgrade))
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    wire.send(client_frame(b"raw bytes for the upstream"))
    scene.settle()
    assert len(scene.verdicts()) == 1


@pytest.mark.attack("websocket reflection")
def test_a_secret_in_the_head_of_a_101_is_the_placeholder_again(start: Start) -> None:
    scene = start(say(accepted(f"X-Echo: Bearer {SECRET}", "Proxy-Status: understudy") + CLOSE))
    wire = scene.tunnel("good.example")
    answer = wire.request(handshake(scene))
    assert answer.status == 101
    assert answer.header("x-echo") == f"Bearer {scene.placeholder('good')}"
    assert answer.header("proxy-status") is None
    assert wire.socket.recv(100) == CLOSE


@pytest.mark.attack("websocket reflection")
def test_frames_that_come_with_the_101_are_cleaned_too(start: Start) -> None:
    greeting = server_frame(b"you are " + SECRET.encode())
    scene = start(say(accepted("X: y") + greeting + CLOSE, then_close=True))
    wire = open_websocket(scene)
    placeholder = scene.placeholder("good").encode()
    assert wire.read_until_closed() == server_frame(b"you are " + placeholder) + CLOSE
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["reflected"] == 1
    assert finished["bytes_received"] == len(greeting + CLOSE)
    assert "reason" not in finished


# -- frames


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    "noise",
    [
        SMUGGLED,
        b"\x00\x00",
        server_frame(b"not masked"),
        client_frame(b"compressed", first=0xC0),
        client_frame(b"reserved opcode", 3),
        client_frame(b"", 0),
        client_frame(b"half", first=0) + client_frame(b"another"),
        client_frame(b"x" * 126, 9),
        client_frame(b"ping in parts", 9, first=0),
        b"\x81\xfe\x00\x05mask",
        b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xffmask",
        b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask",
        client_frame(b"\x03\xe8", 8) + SMUGGLED,
    ],
)
@pytest.mark.parametrize("host", ["good.example", "free.example"])
def test_what_is_no_frame_never_reaches_the_upstream(
    start: Start, place: Place, noise: bytes, host: str
) -> None:
    scene = start(say(accepted()))
    wire = open_websocket(scene, host)
    wire.send(noise)
    assert wire.read_until_closed() == b""
    scene.settle()
    assert place.conversation.heard == b""
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "bad_header")


@pytest.mark.attack("websocket")
@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + SECRET.encode(),
        client_frame(SECRET.encode()),
        server_frame(SECRET.encode(), first=0xC0),
        server_frame(SECRET.encode(), 0),
        server_frame(SECRET.encode(), 3),
        server_frame(SECRET.encode() * 10, 9),
        server_frame(b"x", first=0) + server_frame(SECRET.encode()),
        CLOSE + server_frame(SECRET.encode()),
    ],
)
@pytest.mark.parametrize("host", ["good.example", "free.example"])
def test_what_is_no_frame_never_reaches_the_agent(start: Start, noise: bytes, host: str) -> None:
    scene = start(say(accepted() + noise))
    wire = open_websocket(scene, host)
    assert wire.read_until_closed() == b""
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "upstream_failed")


@pytest.mark.attack("websocket reflection")
def test_no_cut_of_frames_or_bytes_hides_a_secret(start: Start) -> None:
    raw = SECRET.encode()
    cuts = [
        server_frame(raw[:i], first=0) + server_frame(b"mid", 9) + server_frame(raw[i:], 0)
        for i in range(len(raw) + 1)
    ]
    stream = b"".join(cuts)

    async def talk(_: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted())
        for byte in stream:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(CLOSE)
        writer.close()

    scene = start(talk)
    got = open_websocket(scene).read_until_closed()
    for form in forms_of(SECRET):
        assert form not in got
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["reflected"] == len(cuts)


@pytest.mark.attack("websocket")
def test_a_frame_longer_than_any_memory_streams(start: Start) -> None:
    """The length that a frame declares reserves nothing, and its beginning waits for nothing."""
    declared = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"
    scene = start(say(accepted() + declared + b"the beginning"))
    wire = open_websocket(scene)
    assert wire.socket.recv(100) == b"\x02\x0dthe beginning"
    wire.send(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmaskand so on")


# -- the end


@pytest.mark.attack("websocket")
def test_a_client_that_leaves_without_a_word_is_told_of(start: Start) -> None:
    scene = start(say(accepted()))
    open_websocket(scene).send(client_frame(b"last words")).close()
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "client_closed")
    assert finished["bytes_sent"] == len(client_frame(b"last words"))


@pytest.mark.attack("websocket")
def test_a_client_that_resets_is_told_of(start: Start) -> None:
    scene = start(say(accepted()))
    wire = open_websocket(scene)
    linger = struct.pack("ii", 1, 0)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wire.close()
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "client_closed")


@pytest.mark.attack("websocket")
def test_an_upstream_that_breaks_off_is_told_of(start: Start) -> None:
    scene = start(say(accepted() + server_frame(b"last words"), then_close=True))
    wire = open_websocket(scene)
    assert wire.read_until_closed() == server_frame(b"last words")
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (101, "upstream_failed")
    assert finished["detail"] == "the upstream ended the WebSocket without closing it"


@pytest.mark.attack("websocket")
def test_a_half_closed_client_ends_both_sides(start: Start) -> None:
    scene = start(say(accepted() + server_frame(b"hello")))
    wire = open_websocket(scene)
    assert wire.socket.recv(100) == server_frame(b"hello")
    wire.send(client_frame(b"\x03\xe8", 8))
    wire.socket.shutdown(socket.SHUT_WR)
    wire.read_until_closed()
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["status"] == 101
    assert "reason" not in finished


@pytest.mark.attack("websocket")
def test_no_connection_that_was_a_websocket_is_used_again(start: Start) -> None:
    scene = start(say(accepted() + CLOSE))
    for _ in range(2):
        wire = open_websocket(scene)
        assert wire.socket.recv(100) == CLOSE
        wire.send(client_frame(b"\x03\xe8", 8)).close()
    scene.settle()
    first, second = scene.seen("good.example")
    assert first.connection != second.connection


# -- an engine that carries none


@pytest.mark.attack("websocket")
@pytest.mark.engine("mitmproxy")
def test_on_the_other_engine_a_handshake_is_a_plain_request_and_the_operator_knows(
    start: Start,
) -> None:
    scene = start(say(OK))
    answer = scene.tunnel("good.example").request(handshake(scene))
    expect_plain(scene, answer)
    assert "rule live: websocket has no effect without --engine express" in scene.proxy.log
    assert "rule free: websocket has no effect without --engine express" in scene.proxy.log


@pytest.mark.attack("websocket")
@pytest.mark.engine("mitmproxy")
def test_on_the_other_engine_a_101_opens_nothing(start: Start) -> None:
    scene = start(say(accepted() + server_frame(SECRET.encode())))
    answer = scene.tunnel("good.example").request(handshake(scene))
    assert (answer.status, answer.reason) == (502, "upstream_failed")
