"""Slow clients and upstreams: each phase has its time, whoever stands still in it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.client import REFUSED, Wire, client_hello
from tests.support.records import PiecesWire
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream

LONG = 3600
"""Seconds of a limit that the test is not about."""
GET = b"GET / HTTP/1.1\r\nHost: good.example\r\n"
PIECE = b"a" * 65536
FLAT_BYTES = 20_000_000

type Start = Callable[..., Scene]


@pytest.fixture
def start(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> Callable[..., Scene]:
    """A proxy whose times are all long, but for those that are given."""

    def begin(limits: dict[str, Any], **upstream: Any) -> Scene:
        times = ("idle", "head", "handshake", "connect", "first_byte")
        policy = {
            "allow": [{"name": "good", "hosts": ["good.example"]}],
            "limits": {f"{name}_timeout_seconds": LONG for name in times} | limits,
        }
        return start_scene(policy, [start_upstream("good.example", **upstream)], {})

    return begin


async def pour(_: Received, writer: asyncio.StreamWriter) -> None:
    """An answer that goes on until the reader is gone."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    while True:
        writer.write(PIECE)
        await writer.drain()
        await asyncio.sleep(0)  # drain may return at once, for ever, where the reader is gone


async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
    """An answer that begins, and never ends by itself."""
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
    await writer.drain()
    await asyncio.Event().wait()


def finished(scene: Scene) -> dict[str, Any]:
    """The end of the one request that was allowed."""
    assert [line["verdict"] for line in scene.verdicts()] == ["allow"]
    (line,) = scene.proxy.wait_for_events("request.finished")
    return line


def send_slowly(wire: Wire, data: bytes) -> bytes:
    """One byte after another until the proxy closes; gives what it answered."""
    wire.socket.settimeout(0.02)
    for byte in data:
        try:
            wire.send(bytes([byte]))
            return wire.socket.recv(1)
        except TimeoutError:
            continue
        except REFUSED:
            return b""
    raise AssertionError("the proxy took everything")


def send_for_ever(wire: Wire, data: bytes) -> None:
    """Send until the proxy takes no more."""
    while True:
        wire.send(data)


@pytest.mark.attack("endless head")
@pytest.mark.parametrize("sent", ["nothing", "half a hello", "a hello in slow pieces"])
def test_a_handshake_that_takes_too_long_is_closed(start: Start, sent: str) -> None:
    scene = start({"handshake_timeout_seconds": 0.3})
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    hello = client_hello("good.example")
    if sent == "half a hello":
        wire.send(hello[: len(hello) // 2])
    if sent == "a hello in slow pieces":
        assert send_slowly(wire, hello) == b""
    line = scene.expect_closed(wire, "timeout")
    assert line["detail"] == "the TLS handshake did not arrive in time"
    assert line["http"]["host"] == "good.example"


@pytest.mark.attack("slow client")
def test_a_handshake_in_time_is_not_counted_against_what_follows(start: Start) -> None:
    scene = start({"handshake_timeout_seconds": 1})
    with scene.tunnel("good.example") as wire:
        late = scene.wire()
        assert late.connect("good.example:443").status == 200
        assert late.read_until_closed() == b""
        assert wire.request(GET + b"\r\n").status == 200


@pytest.mark.attack("endless head")
@pytest.mark.engine("express")  # the other one says at its start that it does not count this
@pytest.mark.parametrize("kept_alive", [False, True])
def test_part_of_a_record_begins_the_time_of_a_head(start: Start, kept_alive: bool) -> None:
    scene = start({"head_timeout_seconds": 0.3})
    pieces = PiecesWire(scene, "good.example")
    if kept_alive:
        assert pieces.wire.request(GET + b"\r\n").status == 200
    pieces.records.send_raw(pieces.records.seal(GET + b"\r\n")[:-5])
    assert pieces.wire.read_until_closed() == b""
    line = scene.verdicts()[-1]
    assert (line["event"], line["reason"]) == ("connection.rejected", "timeout")
    assert line["detail"] == "the request head did not arrive in time"


@pytest.mark.attack("endless head")
def test_a_hello_without_measure_is_no_http(start: Start) -> None:
    scene = start({})
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    wire.send(b"\x16\x03\x01\x00\x01\x01" * 20)
    assert (
        scene.expect_closed(wire, "not_http")["detail"] == "the ClientHello is in too many pieces"
    )


@pytest.mark.attack("slow client")
def test_a_request_is_cut_when_its_whole_time_is_over(start: Start) -> None:
    scene = start({"max_stream_seconds": 0.5}, handler=drip)
    wire = scene.tunnel("good.example")
    wire.send(GET + b"\r\n")
    assert wire.read(head_only=True).status == 200
    answered = wire.read_until_closed()
    assert b"hello" in answered
    assert not answered.endswith(b"0\r\n\r\n"), "a cut answer looks whole"
    line = finished(scene)
    assert (line["status"], line["reason"]) == (200, "timeout")


@pytest.mark.attack("slow client")
@pytest.mark.parametrize("phase", ["upload", "waiting"])
def test_the_whole_time_counts_from_the_head_on(start: Start, phase: str) -> None:
    async def say_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    scene = start({"max_stream_seconds": 0.5}, handler=say_nothing)
    wire = scene.tunnel("good.example")
    wire.send(b"POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 10\r\n\r\n")
    if phase == "waiting":
        wire.send(b"0123456789")
    assert wire.read_until_closed() == b""
    line = finished(scene)
    assert line["reason"] == "timeout"
    assert "status" not in line


@pytest.mark.attack("slow client")
def test_requests_within_their_time_share_a_connection(start: Start) -> None:
    scene = start({"max_stream_seconds": 2}, handler=None)
    with scene.tunnel("good.example") as wire:
        assert [wire.request(GET + b"\r\n").status for _ in range(20)] == [200] * 20
    scene.expect_allowed("good.example", 20)


@pytest.mark.attack("slow client")
@pytest.mark.parametrize("half_closed", [False, True])
def test_a_client_that_does_not_read_is_closed_when_the_idle_time_is_over(
    start: Start, half_closed: bool
) -> None:
    scene = start({"idle_timeout_seconds": 1}, handler=pour)
    before, memory = scene.proxy.descriptors(), scene.proxy.peak_memory_bytes()
    wire = scene.wire()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert wire.connect("good.example:443").status == 200
    wire.start_tls("good.example").send(GET + b"\r\n")
    if half_closed:
        wire.socket.shutdown(socket.SHUT_WR)
    scene.proxy.wait_for_events("request.finished")
    scene.proxy.wait_until(lambda: scene.proxy.open_connections() == 0)
    scene.proxy.wait_until(lambda: scene.proxy.descriptors() <= before)
    assert scene.proxy.peak_memory_bytes() - memory < FLAT_BYTES
    # One that has closed its side may count as gone at once.
    assert finished(scene)["reason"] in (
        {"timeout", "client_closed"} if half_closed else {"timeout"}
    )


@pytest.mark.attack("slow client")
def test_an_answer_that_nobody_reads_keeps_no_socket_for_ever(start: Start) -> None:
    """Answers that the proxy holds itself when the kernel takes no more: it is done with them."""

    async def answer_much(_: Received, writer: asyncio.StreamWriter) -> None:
        body = b"a" * 30_000
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    scene = start({"idle_timeout_seconds": 1}, handler=answer_much)
    before = scene.proxy.descriptors()

    def ask(count: int) -> None:
        wire = scene.wire()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert wire.connect("good.example:443").status == 200
        requests = (GET + b"\r\n") * (count - 1) + GET + b"Connection: close\r\n\r\n"
        wire.start_tls("good.example").send(requests)

    # How many are taken until the proxy has to wait for the client to read.
    ask(1000)
    scene.proxy.wait_for_events("request.finished")
    scene.proxy.wait_until(lambda: scene.proxy.open_connections() == 0)
    taken = len(scene.events("request.finished"))
    assert taken < 1000
    for count in range(max(1, taken - 2), taken + 1):
        ask(count)
    scene.proxy.wait_until(lambda: scene.proxy.open_connections() == 0)
    scene.proxy.wait_until(lambda: scene.proxy.descriptors() <= before)
    assert all(wire.socket.fileno() >= 0 for wire in scene.wires), "the clients are still there"


@pytest.mark.attack("slow client")
def test_an_upstream_that_thinks_for_longer_than_the_idle_time_is_waited_for(start: Start) -> None:
    said = asyncio.Event()

    async def think(_: Received, writer: asyncio.StreamWriter) -> None:
        await said.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    scene = start({"idle_timeout_seconds": 1}, handler=think)
    good = scene.upstreams["good.example"]
    with scene.tunnel("good.example") as wire:
        wire.send(GET + b"\r\n")
        good.wait_for(lambda upstream: len(upstream.requests) == 1)
        for _ in range(2):
            assert scene.tunnel("good.example").read_until_closed() == b""
        good.soon(said.set)
        assert wire.read().status == 200


REFUSED_REQUEST = b"PURGE / HTTP/1.1\r\nHost: good.example\r\n\r\n"


@pytest.mark.attack("slow client")
def test_refused_requests_in_a_row_keep_nobody_waiting(start: Start) -> None:
    scene = start({})
    wires = [scene.tunnel("good.example") for _ in range(3)]
    process = scene.proxy.process
    process.send_signal(signal.SIGSTOP)
    try:
        # Whichever is looked at first when all is there at once.
        for wire, count in zip(wires, (1, 3000, 1), strict=True):
            wire.send(GET + b"\r\n" if count == 1 else REFUSED_REQUEST * count)
    finally:
        process.send_signal(signal.SIGCONT)
    for wire in (wires[0], wires[2]):
        assert wire.read().status == 200
    decided = scene.proxy.wait_for_events("request.decided", 1000)
    allowed = [place for place, line in enumerate(decided) if line["verdict"] == "allow"]
    assert len(allowed) == 2
    assert max(allowed) < 500


@pytest.mark.attack("slow client")
def test_refusals_that_nobody_reads_are_not_kept(start: Start) -> None:
    scene = start({"idle_timeout_seconds": 1})
    before = scene.proxy.peak_memory_bytes()
    wire = scene.wire()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert wire.connect("good.example:443").status == 200
    wire.start_tls("good.example").socket.settimeout(2)
    with pytest.raises((TimeoutError, *REFUSED)):
        send_for_ever(wire, REFUSED_REQUEST * 500)
    scene.proxy.wait_until(lambda: scene.proxy.open_connections() == 0)
    assert scene.proxy.peak_memory_bytes() - before < FLAT_BYTES
    assert {line["verdict"] for line in scene.verdicts()} == {"deny"}


@pytest.mark.attack("slow client")
@pytest.mark.parametrize(
    "place", ["the proxy's port", "a tunnel", "a tunnel's TLS", "a later head"]
)
def test_what_is_closed_for_standing_still_was_not_the_clients_doing(
    start: Start, place: str
) -> None:
    scene = start({"idle_timeout_seconds": 1})
    wire = (
        scene.wire() if place in ("the proxy's port", "a tunnel") else scene.tunnel("good.example")
    )
    if place == "a tunnel":
        assert wire.connect("good.example:443").status == 200
    if place == "a later head":
        assert wire.request(GET + b"\r\n").status == 200
    wire.send(GET).read_until_closed()
    line = scene.verdicts()[-1]
    assert (line["event"], line["reason"]) == ("connection.rejected", "timeout")
    assert line["detail"] == "in the middle of a request head"


@pytest.mark.attack("slow client")
@pytest.mark.parametrize("piece", [b"a", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"])
def test_an_answers_head_in_slow_pieces_is_504_in_time(start: Start, piece: bytes) -> None:
    """Each piece comes in time, the head never does."""

    async def dawdle(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: " if piece == b"a" else b"")
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)

    scene = start({"first_byte_timeout_seconds": 0.5}, handler=dawdle)
    wire = scene.tunnel("good.example")
    wire.send(GET + b"\r\n")
    while (answer := wire.read()).status == 103:
        pass
    assert (answer.status, answer.reason) == (504, "upstream_timeout")
    assert finished(scene)["reason"] == "upstream_timeout"


@pytest.mark.attack("slow client")
def test_an_idle_tunnel_that_was_never_used_is_told_of_once(start: Start) -> None:
    scene = start({"idle_timeout_seconds": 1})
    line = scene.expect_closed(scene.tunnel("good.example"), "timeout")
    assert line["detail"] == "the tunnel was not used"


@pytest.mark.attack("slow client")
def test_an_upstream_that_never_shakes_hands_is_504(
    start: Start, start_scene: Callable[..., Scene]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        policy = {
            "allow": [{"name": "good", "hosts": ["good.example"]}],
            "limits": {"connect_timeout_seconds": 0.3},
            "upstream": {
                "connect_to": {"good.example:443": f"127.0.0.1:{silent.getsockname()[1]}"}
            },
        }
        scene = start_scene(policy, [], {})
        with scene.tunnel("good.example") as wire:
            answer = wire.request(GET + b"\r\n")
    assert (answer.status, answer.reason) == (504, "upstream_timeout")
    assert finished(scene)["reason"] == "upstream_timeout"


@pytest.mark.attack("slow client")
def test_what_is_sent_behind_a_request_that_waits_is_not_kept(start: Start) -> None:
    async def say_nothing(*_: object) -> None:
        await asyncio.Event().wait()

    scene = start({"idle_timeout_seconds": 1, "first_byte_timeout_seconds": 2}, handler=say_nothing)
    before = scene.proxy.peak_memory_bytes()
    wire = scene.tunnel("good.example")
    wire.send(GET + b"\r\n")
    wire.socket.settimeout(0.5)
    with pytest.raises((TimeoutError, *REFUSED)):
        wire.send(PIECE * 16 * 100)
    wire.socket.settimeout(10)
    wire.read_until_closed()
    assert scene.proxy.peak_memory_bytes() - before < FLAT_BYTES
    scene.proxy.wait_for_events("request.finished")
    assert len(scene.events("request.decided")) == 1
    assert len(scene.seen("good.example")) == 1
