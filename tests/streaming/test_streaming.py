"""Bodies stream both ways: at once, whole, byte for byte, in flat memory."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.client import Wire
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream, answer, answer_ok, open_connections_to

SIZE = 200 << 20
BLOCK = bytes(range(256)) * 4096  # 1 MiB
FLAT_BYTES = 48 << 20
"""How far memory may rise while 200 MB pass: buffers, not bodies."""
SECRET = "sk-real-streaming-0123456789abcdef"
POLICY = {
    "connections": {
        "bound": {
            "hosts": ["bound.example"],
            "carriers": [{"bearer": True}],
            "secret": {"env": "KEY"},
        }
    },
    "allow": [
        {"name": "free", "hosts": ["free.example"]},
        {"name": "bound", "connection": "bound"},
    ],
}


def peak_memory_bytes(proxy: Proxy) -> int:
    """The most memory that the proxy ever held (VmHWM)."""
    status = Path(f"/proc/{proxy.process.pid}/status")
    if not status.exists():
        pytest.skip("peak memory is read from Linux's /proc")
    (line,) = [text for text in status.read_text().splitlines() if text.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def expected_digest() -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // len(BLOCK)):
        digest.update(BLOCK)
    return digest.hexdigest()


class Swallow:
    """An upstream's conversation that hashes a body as it comes, and says how much it was."""

    def __init__(self) -> None:
        self.digest, self.size, self.chunks = hashlib.sha256(), 0, 0

    async def __call__(
        self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if received.header("transfer-encoding"):
            while (size := int(await reader.readline(), 16)) > 0:
                self._take(await reader.readexactly(size))
                await reader.readexactly(2)
                self.chunks += 1
            await reader.readexactly(2)
        else:
            left = int(received.header("content-length") or 0)
            while left > 0:
                data = await reader.read(min(left, 1 << 20))
                assert data
                left -= len(data)
                self._take(data)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _take(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)


@pytest.fixture
def swallow() -> Swallow:
    return Swallow()


@pytest.fixture
def start(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> Callable[..., Scene]:
    def start(**options: object) -> Scene:
        names = ("free.example", "bound.example")
        upstreams = [start_upstream(name, **options) for name in names]
        owners = {SECRET: ["bound.example"]}
        return start_scene(POLICY, upstreams, owners, environ={"KEY": SECRET})

    return start


def credential(scene: Scene, host: str) -> str:
    if host != "bound.example":
        return ""
    return f"Authorization: Bearer {scene.placeholder('bound')}\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("host", ["free.example", "bound.example"])
def test_upload_of_200_mb_is_identical_in_flat_memory(
    start: Callable[..., Scene], swallow: Swallow, framing: str, host: str
) -> None:
    scene = start(conversation=swallow)
    with scene.tunnel(host) as wire:
        wire.socket.settimeout(60)
        before = peak_memory_bytes(scene.proxy)
        head = f"POST /up HTTP/1.1\r\nHost: {host}\r\n{credential(scene, host)}"
        if framing == "length":
            wire.send(f"{head}Content-Length: {SIZE}\r\n\r\n".encode())
            for _ in range(SIZE // len(BLOCK)):
                wire.send(BLOCK)
        else:
            wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            chunk = b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK)
            for _ in range(SIZE // len(BLOCK)):
                wire.send(chunk)
            wire.send(b"0\r\n\r\n")
        assert wire.read().body == b"ok"
    assert swallow.size == SIZE
    assert swallow.digest.hexdigest() == expected_digest()
    assert peak_memory_bytes(scene.proxy) - before < FLAT_BYTES
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["bytes_sent"] == SIZE
    received = scene.seen(host)[0]
    assert (received.header("content-length") is None) == (framing == "chunked")


async def pour(received: Received, writer: asyncio.StreamWriter) -> None:
    """200 MB, with a length or in chunks as the path says."""
    chunked = received.target == "/chunked"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
    writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
    for _ in range(SIZE // len(BLOCK)):
        writer.write(b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/length", "/chunked"])
@pytest.mark.parametrize("host", ["free.example", "bound.example"])
def test_download_of_200_mb_is_identical_in_flat_memory(
    start: Callable[..., Scene], host: str, path: str
) -> None:
    scene = start(handler=pour)
    digest, size = hashlib.sha256(), 0
    with scene.tunnel(host) as wire:
        wire.socket.settimeout(60)
        before = peak_memory_bytes(scene.proxy)
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{credential(scene, host)}\r\n"
        wire.send(request.encode())
        head = wire.read(head_only=True)
        with wire.socket.makefile("rb") as stream:
            while size < SIZE:
                left = SIZE
                if head.header("transfer-encoding"):
                    left = size + int(stream.readline(), 16)
                while size < left:
                    data = stream.read(min(left - size, 1 << 20))
                    assert data
                    size += len(data)
                    digest.update(data)
                if head.header("transfer-encoding"):
                    assert stream.readline() == b"\r\n"
    assert digest.hexdigest() == expected_digest()
    assert peak_memory_bytes(scene.proxy) - before < FLAT_BYTES


def test_a_slow_reader_slows_the_upstream_down(start: Callable[..., Scene]) -> None:
    """A client that does not read: the proxy stops reading too, instead of keeping the body."""
    scene = start(handler=pour)
    with scene.tunnel("free.example") as wire:
        before = peak_memory_bytes(scene.proxy)
        wire.send(b"GET /length HTTP/1.1\r\nHost: free.example\r\n\r\n")
        wire.read(head_only=True)
        assert scene.proxy.admin("/healthz")[0] == 200
        for _ in range(20):
            scene.proxy.metrics()
        assert peak_memory_bytes(scene.proxy) - before < FLAT_BYTES
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["reason"] == "client_closed"


class Events:
    """Server-sent events, each written when the test says so."""

    def __init__(self) -> None:
        self.turns: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, _: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        while (event := await self.turns.get()) is not None:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def read_text(wire: Wire, text: bytes) -> bytes:
    """Read chunks until they hold ``text``; the client's timeout is the test's."""
    data = b""
    while len(data) < len(text):
        data += wire.read_chunk()
    return data


@pytest.mark.parametrize("host", ["free.example", "bound.example"])
def test_a_head_arrives_before_the_first_event_and_each_event_before_the_next_is_written(
    start: Callable[..., Scene], host: str
) -> None:
    events = Events()
    scene = start(handler=events)
    with scene.tunnel(host) as wire:
        wire.send(f"GET /events HTTP/1.1\r\nHost: {host}\r\n{credential(scene, host)}\r\n".encode())
        assert wire.read(head_only=True).status == 200
        for number in range(5):
            event = f'data: {{"n": {number}}}\n\n'.encode()
            scene.upstreams[host].soon(lambda event=event: events.turns.put_nowait(event))
            assert read_text(wire, event) == event
        scene.upstreams[host].soon(lambda: events.turns.put_nowait(None))
        assert wire.read_chunk() == b""


def test_events_with_the_start_of_a_secret_are_held_no_longer_than_needed(
    start: Callable[..., Scene],
) -> None:
    """An event that ends like a secret begins: all but those bytes arrives at once."""
    events = Events()
    scene = start(handler=events)
    with scene.tunnel("bound.example") as wire:
        wire.send(
            "GET / HTTP/1.1\r\nHost: bound.example\r\n"
            f"{credential(scene, 'bound.example')}\r\n".encode()
        )
        upstream = scene.upstreams["bound.example"]
        head, tail = SECRET[:10].encode(), SECRET[10:].encode()
        upstream.soon(lambda: events.turns.put_nowait(b"data: " + head))
        assert wire.read(head_only=True).status == 200
        assert read_text(wire, b"data: ") == b"data: "
        upstream.soon(lambda: events.turns.put_nowait(tail + b"\n\n"))
        placeholder = scene.placeholder("bound").encode() + b"\n\n"
        assert read_text(wire, placeholder) == placeholder
        upstream.soon(lambda: events.turns.put_nowait(None))
        assert wire.read_chunk() == b""


def test_an_upload_arrives_while_it_is_sent(start: Callable[..., Scene]) -> None:
    """The upstream answers one part of a request before the next part is written."""
    first, second = threading.Event(), threading.Event()

    async def listen(
        _: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert await reader.readexactly(3) == b"one"
        first.set()
        assert await reader.readexactly(3) == b"two"
        second.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    scene = start(conversation=listen)
    with scene.tunnel("free.example") as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: free.example\r\nContent-Length: 6\r\n\r\none")
        assert first.wait(10)
        wire.send(b"two")
        assert second.wait(10)
        assert wire.read().status == 200


# -- Expect: 100-continue


def test_continue_is_said_only_after_an_allow(start: Callable[..., Scene]) -> None:
    scene = start()
    with scene.tunnel("free.example") as wire:
        head = "POST / HTTP/1.1\nHost: free.example\nExpect: 100-continue\nContent-Length: 5"
        assert wire.request(head).status == 100
        scene.proxy.wait_for_events("request.decided")
        wire.send(b"hello")
        assert wire.read().status == 200
    (received,) = scene.expect_allowed("free.example")
    assert received.body == b"hello"


@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_a_denied_request_that_expects_to_continue_gets_the_final_status_alone(
    start: Callable[..., Scene], body: str
) -> None:
    scene = start()
    with scene.tunnel("bound.example") as wire:
        answered = wire.request(
            f"POST / HTTP/1.1\nHost: bound.example\nX-Debug: {scene.placeholder('bound')}\n"
            f"Expect: 100-continue\n{body}"
        )
    scene.expect_denied(answered, "placeholder_misplaced")


def test_an_upstreams_own_continue_is_not_passed_on_twice(start: Callable[..., Scene]) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    scene = start(handler=answer(raw))
    with scene.tunnel("free.example") as wire:
        head = "POST / HTTP/1.1\nHost: free.example\nExpect: 100-continue\nContent-Length: 5"
        assert wire.request(head).status == 100
        wire.send(b"hello")
        final = wire.read()
    assert (final.status, final.body) == (200, b"ok")


# -- odd answers


def test_early_hints_are_passed_on(start: Callable[..., Scene]) -> None:
    raw = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n"
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    scene = start(handler=answer(raw))
    with scene.tunnel("free.example") as wire:
        hints = wire.request("GET / HTTP/1.1\nHost: free.example")
        assert hints.status == 103
        assert hints.header("link") == "</x.css>; rel=preload"
        assert wire.read().status == 102
        assert wire.read().body == b"ok"
        assert wire.request("GET / HTTP/1.1\nHost: free.example").status == 103
    assert len(scene.verdicts()) == 2


@pytest.mark.parametrize("host", ["free.example", "bound.example"])
@pytest.mark.parametrize(
    ("method", "raw", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 1000\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ],
)
def test_an_answer_without_a_body_ends_there_and_the_tunnel_lives(
    start: Callable[..., Scene], host: str, method: str, raw: bytes, status: int
) -> None:
    scene = start(handler=answer(raw))
    with scene.tunnel(host) as wire:
        for _ in range(2):
            head = f"{method} / HTTP/1.1\r\nHost: {host}\r\n{credential(scene, host)}\r\n"
            answered = wire.request(head.encode())
            assert (answered.status, answered.body) == (status, b"")
    seen = scene.expect_allowed(host, 2)
    # A body that is announced may come after all: express, whose connections other clients use
    # next, keeps none on which one may (tests/attacks/test_hostile_answers.py).
    given_up = scene.proxy.engine == "express" and (b"1000" in raw or b"chunked" in raw)
    assert [received.connection for received in seen] == [0, int(given_up)]


def test_an_answer_without_a_length_ends_with_the_connection(start: Callable[..., Scene]) -> None:
    scene = start(handler=answer(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True))
    with scene.tunnel("free.example") as wire:
        answered = wire.request("GET / HTTP/1.1\nHost: free.example")
    assert answered.body == b"until the end"
    scene.expect_allowed("free.example")


@pytest.mark.parametrize("host", ["free.example", "bound.example"])
def test_an_old_client_gets_no_chunks(start: Callable[..., Scene], host: str) -> None:
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    )
    scene = start(handler=answer(chunks))
    with scene.tunnel(host) as wire:
        head = f"GET / HTTP/1.0\r\nHost: {host}\r\n{credential(scene, host)}\r\n"
        answered = wire.request(head.encode())
    assert answered.header("transfer-encoding") is None
    assert answered.body == b"onetwo"
    scene.expect_allowed(host)


def test_connections_are_kept_and_used_again(start: Callable[..., Scene]) -> None:
    scene = start()
    with scene.tunnel("free.example") as wire:
        for number in range(10):
            assert wire.request(f"GET /{number} HTTP/1.1\nHost: free.example").status == 200
    seen = scene.expect_allowed("free.example", 10)
    assert {received.connection for received in seen} == {0}
    assert scene.connections_seen("free.example") == 1


@pytest.mark.engine("express")
def test_a_new_policy_closes_the_connections_that_rest(start: Callable[..., Scene]) -> None:
    """No request could take them any more: they would only fill descriptors."""
    scene = start()
    with scene.tunnel("free.example") as wire:
        assert wire.request("GET / HTTP/1.1\nHost: free.example").status == 200
        port = scene.upstreams["free.example"].port
        assert open_connections_to(port) == 1
        policy = scene.proxy.policy_file.read_text()
        scene.proxy.write_policy(policy + "\n# another\n")
        scene.proxy.wait_until(lambda: open_connections_to(port) == 0)
        assert wire.request("GET / HTTP/1.1\nHost: free.example").status == 200
    assert [r.connection for r in scene.expect_allowed("free.example", 2)] == [0, 1]


def test_a_connection_that_the_upstream_closed_is_opened_again(
    start: Callable[..., Scene],
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    scene = start(handler=answer(raw, close=True))
    with scene.tunnel("free.example") as wire:
        assert wire.request("GET /1 HTTP/1.1\nHost: free.example").body == b"ok"
    with scene.tunnel("free.example") as wire:
        assert wire.request("GET /2 HTTP/1.1\nHost: free.example").body == b"ok"
    scene.expect_allowed("free.example", 2)


def test_a_kept_connection_that_its_upstream_closes_carries_no_other_request(
    start: Callable[..., Scene],
) -> None:
    """Also where it has just carried more than the proxy reads at once."""
    large = b"x" * (4 << 20)
    kept: list[asyncio.StreamWriter] = []

    async def talk(received: Received, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        body = large if received.method == "GET" else b"ok"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    scene = start(handler=talk)
    free = scene.upstreams["free.example"]
    for turn in range(5):
        assert scene.request("free.example", "/large").body == large
        scene.settle()
        for writer in kept:  # each worker keeps its own
            free.soon(writer.transport.abort)
        scene.proxy.wait_until(lambda: not open_connections_to(free.port))
        answer = scene.request("free.example", f"/{turn}", method="POST", body=b"once")
        assert answer.body == b"ok"
    scene.expect_allowed("free.example", 10)


def test_a_request_is_not_sent_again_once_its_client_has_left(
    start: Callable[..., Scene],
) -> None:
    """A kept connection that ends before an answer is tried again, but not for nobody."""
    waiting = threading.Event()

    async def talk(
        received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if received.target == "/wait":
            waiting.set()
            await reader.read()
            raise ConnectionResetError
        await answer_ok(received, writer)

    scene = start(conversation=talk)
    assert scene.request("free.example", "/first").status == 200
    with scene.tunnel("free.example") as wire:
        wire.send(b"GET /wait HTTP/1.1\r\nHost: free.example\r\n\r\n")
        assert waiting.wait(20)
    scene.settle()
    assert scene.request("free.example", "/last").status == 200
    assert [r.target for r in scene.expect_allowed("free.example", 3)] == [
        "/first",
        "/wait",
        "/last",
    ]


def test_a_request_is_not_sent_again_once_something_has_come_back(
    start: Callable[..., Scene],
) -> None:
    async def talk(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.target == "/half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
            writer.close()
            return
        await answer_ok(received, writer)

    scene = start(handler=talk)
    assert scene.request("free.example", "/first").status == 200
    assert scene.request("free.example", "/half").reason == "upstream_failed"
    assert [r.target for r in scene.expect_allowed("free.example", 2)] == ["/first", "/half"]


def test_a_client_that_leaves_ends_the_upstreams_work(start: Callable[..., Scene]) -> None:
    """An agent that stops reading a stream costs no tokens."""
    gone = threading.Event()

    async def talk(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        try:
            while True:
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        finally:
            gone.set()

    scene = start(handler=talk)
    with scene.tunnel("free.example") as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: free.example\r\n\r\n")
        wire.read(head_only=True)
    assert gone.wait(20)
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert finished["reason"] == "client_closed"


# -- answers that do not wait for the whole request

EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n%s\r\nbig"


async def refuse(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer before the body has come, and keep the connection."""
    writer.write(EARLY % b"")
    await writer.drain()
    await asyncio.Event().wait()


@pytest.mark.engine("express")
@pytest.mark.parametrize("framing", ["Content-Length: 12", "Transfer-Encoding: chunked"])
def test_after_an_early_answer_a_client_may_send_the_rest_and_ask_again(
    start: Callable[..., Scene], framing: str
) -> None:
    """A client that writes all before it reads is not reset while it writes."""

    scene = start(conversation=refuse)
    pieces = (b"first ", b"second")
    if "chunked" in framing:
        pieces = (b"6\r\nfirst \r\n", b"6\r\nsecond\r\n0\r\n\r\n")
    with scene.tunnel("free.example") as wire:
        for _ in range(2):
            wire.send(f"POST / HTTP/1.1\r\nHost: free.example\r\n{framing}\r\n\r\n".encode())
            wire.send(pieces[0])
            answer = wire.read()
            assert (answer.status, answer.body) == (413, b"big")
            wire.send(pieces[1])
    # What was not read of the first request is not taken for a second one.
    assert [(r.method, r.connection) for r in scene.seen("free.example")] == [
        ("POST", 0),
        ("POST", 1),
    ]
    assert [v["reason"] for v in scene.verdicts()] == ["allowed", "allowed"]
    assert [end["status"] for end in scene.events("request.finished")] == [413, 413]


@pytest.mark.engine("express")
@pytest.mark.parametrize("end", [b"0\r\nX-Trailer: 1\r\n\r\n", b"5\r\nabcdefgh\r\n0\r\n\r\n"])
def test_after_an_early_answer_nothing_is_read_behind_a_broken_body(
    start: Callable[..., Scene], end: bytes
) -> None:
    scene = start(conversation=refuse)
    head = b"POST / HTTP/1.1\r\nHost: free.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    with scene.tunnel("free.example") as wire:
        assert wire.send(head + b"6\r\nfirst \r\n").read().status == 413
        wire.send(end + b"GET /smuggled HTTP/1.1\r\nHost: free.example\r\n\r\n" + end)
        assert wire.read_until_closed() == b""
    assert [r.target for r in scene.seen("free.example")] == ["/"]
    assert len(scene.verdicts()) == 1


@pytest.mark.engine("express")
@pytest.mark.parametrize("host", ["free.example", "bound.example"])
def test_an_answer_is_read_though_its_upstream_closes_while_the_body_is_sent(
    start: Callable[..., Scene], host: str
) -> None:
    async def refuse(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EARLY % b"Connection: close\r\n")
        await writer.drain()
        writer.close()  # with much unread: a reset

    scene = start(conversation=refuse)
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\n{credential(scene, host)}Content-Length: {4 << 20}"
    # Whether the reset or the answer is noticed first is chance.
    for _ in range(10):
        with scene.tunnel(host) as wire:
            answer = wire.request(head, bytes(4 << 20))
            assert (answer.status, answer.body) == (413, b"big")
    assert {end["status"] for end in scene.events("request.finished")} == {413}
