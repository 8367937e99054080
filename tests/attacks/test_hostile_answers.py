"""Answers made to confuse: what an upstream sends reaches one request's client, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
from tests.support.client import Wire
from tests.support.scene import Scene
from tests.support.upstream import Conversation, Received, Upstream, answer, open_connections_to

POLICY = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
# mitmproxy keeps no connection for another client, and relays what its own parser takes.
pytestmark = pytest.mark.engine("express")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

Start = Callable[..., Scene]


@pytest.fixture
def play(start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]) -> Start:
    """A proxy before one upstream that plays as it is told."""

    def start(conversation: Conversation) -> Scene:
        good = start_upstream("good.example", conversation=conversation)
        return start_scene(POLICY, [good], {})

    return start


def after(first: bytes) -> Conversation:
    """The first request of all gets ``first``, every other one a proper answer."""
    played = False

    async def conversation(
        _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal played
        writer.write(OK if played else first)
        played = True

    return conversation


def ask(scene: Scene, request: str = "GET / HTTP/1.1") -> tuple[Wire, bytes]:
    """Everything that one client gets; it asks for the connection's end."""
    wire = scene.tunnel("good.example")
    head = f"{request}\r\nHost: good.example\r\nConnection: close\r\n\r\n"
    return wire, wire.send(head.encode()).read_until_closed()


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("GET", OK + FORGED),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n" + FORGED),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n" + FORGED),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + FORGED),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + FORGED),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n" + FORGED),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + FORGED),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n" + FORGED),
    ],
)
def test_bytes_behind_an_answer_are_nobodys_answer(play: Start, method: str, first: bytes) -> None:
    scene = play(after(first))
    _, got = ask(scene, f"{method} / HTTP/1.1")
    assert b"forged" not in got
    for _ in range(3):
        _, got = ask(scene)
        assert got.endswith(b"\r\n\r\nok")
    assert len(scene.verdicts()) == 4


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n"),
    ],
)
def test_a_body_that_may_come_late_finds_no_next_request(
    play: Start, method: str, first: bytes
) -> None:
    """Where a body is announced that must not come, nobody else is given the connection."""
    scene = play(after(first))
    ask(scene, f"{method} / HTTP/1.1")
    ask(scene)
    assert [request.connection for request in scene.expect_allowed("good.example", 2)] == [0, 1]


@pytest.mark.attack("hostile answer")
def test_bytes_on_a_connection_that_rests_end_it(play: Start) -> None:
    """The second client is not served from a connection on which something came unasked."""
    arrived = asyncio.Event()

    async def conversation(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(OK)
        if received.connection == 0:
            await writer.drain()
            await arrived.wait()
            writer.write(FORGED)
            await writer.drain()
            # The proxy ends it without having asked anything more.
            assert await reader.read() == b""
            writer.close()

    scene = play(conversation)
    good = scene.upstreams["good.example"]
    _, got = ask(scene)
    assert got.endswith(b"\r\n\r\nok")
    good.soon(arrived.set)
    # Asked again before the bytes are there, the upstream would have answered with them.
    scene.proxy.wait_until(lambda: open_connections_to(good.port) == 0)
    for _ in range(3):
        _, got = ask(scene)
        assert got.endswith(b"\r\n\r\nok"), got


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize("login", ["NTLM dGVzdA==", "Negotiate dGVzdA=="])
def test_a_login_of_the_connection_is_nobody_elses(play: Start, login: str) -> None:
    scene = play(after(OK))
    ask(scene, f"GET / HTTP/1.1\r\nAuthorization: {login}")
    ask(scene)
    ask(scene)
    connections = [request.connection for request in scene.expect_allowed("good.example", 3)]
    assert connections == [0, 1, 1]


@pytest.mark.attack("hostile answer")
def test_a_new_policy_dials_anew(play: Start) -> None:
    """What is kept from an earlier policy may lead where the new one would not let it."""
    scene = play(after(OK))
    ask(scene)
    policy = scene.proxy.policy_file.read_text()
    scene.proxy.write_policy(policy + "\n# another file\n")
    scene.proxy.wait_for_events("policy.loaded", 2)
    ask(scene)
    assert [request.connection for request in scene.expect_allowed("good.example", 2)] == [0, 1]


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_an_answer_without_a_body_promises_no_chunks(play: Start, status: bytes) -> None:
    _, got = ask(play(after(b"HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n" % status)))
    assert got.startswith(b"HTTP/1.1 " + status)
    assert b"transfer-encoding" not in got.lower()


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + 2 * b"Transfer-Encoding: chunked\r\n" + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.1 200 a\x00b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + FORGED,
        b"HTTP/1.1 103 Early Hints\r\nX: \x00\r\n\r\n" + OK,
        b"HTTP/1.1 099 Below\r\n\r\n" + OK,
        b"HTTP/1.1 000 Nothing\r\n\r\n" + OK,
    ],
)
def test_an_answer_with_two_readings_is_502(play: Start, raw: bytes) -> None:
    scene = play(after(raw))
    _, got = ask(scene)
    assert got.startswith(b"HTTP/1.1 502 "), got
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (502, "upstream_failed")


@pytest.mark.attack("hostile answer")
def test_interim_answers_have_no_framing_and_http_1_0_gets_none(play: Start) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nKeep-Alive: 5\r\nLink: x\r\n\r\n"
    scene = play(after(interim + OK))
    wire = scene.tunnel("good.example").send(b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n")
    hints = wire.read()
    assert (hints.status, hints.header("link")) == (103, "x")
    assert hints.header("content-length") is hints.header("keep-alive") is None
    assert wire.read().body == b"ok"
    scene = play(after(interim + OK))
    _, got = ask(scene, "GET / HTTP/1.0")
    assert got.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize(
    "endless",
    [
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
        b"X: " + b"y" * 65536,
        b"X: y\r\n" * 10_000,
    ],
)
@pytest.mark.parametrize(
    "before",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"],
)
def test_endless_heads_and_trailers_are_cut_off(play: Start, before: bytes, endless: bytes) -> None:
    """However long the upstream goes on, the proxy ends it, with a bounded part taken."""
    ended = asyncio.Event()

    async def conversation(
        _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(before)
        try:
            while True:
                writer.write(endless)
                await writer.drain()
                await asyncio.sleep(0)  # drain alone lets nobody else run
        finally:
            ended.set()

    scene = play(conversation)
    ask(scene)
    scene.settle()
    scene.upstreams["good.example"].wait_for(lambda _: ended.is_set())
    (finished,) = scene.events("request.finished")
    assert finished["reason"] == "upstream_failed"


@pytest.mark.attack("hostile answer")
@pytest.mark.parametrize("end", ["reset", "no close_notify"])
def test_an_end_that_anyone_could_have_made_is_not_the_answers_end(play: Start, end: str) -> None:
    """RFC 9112 9.8: whoever can cut a connection must not decide how much of an answer there is."""

    async def conversation(
        _: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        raw = writer.get_extra_info("socket")
        if end == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            raw.shutdown(socket.SHUT_WR)

    scene = play(conversation)
    _, got = ask(scene)
    assert not got.endswith(b"0\r\n\r\n"), got
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["reason"] == "upstream_failed"


@pytest.mark.attack("hostile answer")
def test_a_kept_connection_is_not_asked_twice_once_anything_came(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    half = b"HTTP/1.1 200 OK\r\nConte"
    good = start_upstream("good.example", handler=answer(OK))
    scene = start_scene(POLICY, [good], {})
    ask(scene)
    good.handler = answer(half, close=True)
    _, got = ask(scene, "DELETE /x HTTP/1.1")
    assert got.startswith(b"HTTP/1.1 502 ")
    assert [request.method for request in good.requests] == ["GET", "DELETE"]
