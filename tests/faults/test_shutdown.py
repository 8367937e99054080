"""SIGTERM lets open requests end and takes no new ones; SIGKILL leaves an audit that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.client import REFUSED, Wire
from tests.support.proxy import Proxy
from tests.support.upstream import Received, Upstream

POLICY = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
GET = b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Stream:
    """An upstream's answer that begins at once and ends when it is told to."""

    def __init__(self) -> None:
        self.upstream: Upstream
        self._end = asyncio.Event()

    async def handler(self, _: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"5\r\nfirst\r\n")
        await writer.drain()
        await self._end.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")

    def end(self) -> None:
        self.upstream.soon(self._end.set)


@pytest.fixture
def stream(start_upstream: Callable[..., Upstream]) -> Stream:
    stream = Stream()
    stream.upstream = start_upstream("good.example", handler=stream.handler)
    return stream


def begin(proxy: Proxy) -> Wire:
    """A request whose answer has begun."""
    wire = proxy.tunnel("good.example")
    wire.send(GET)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += wire.socket.recv(1)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert wire.read_chunk() == b"first"
    return wire


def expect_not_listening(proxy: Proxy) -> None:
    """New connections are refused, soon."""

    def refuses() -> bool:
        try:
            socket.create_connection(proxy.address, 5).close()
        except ConnectionError:
            return True
        return False

    proxy.wait_until(refuses)


def ended(proxy: Proxy) -> list[tuple[int, str | None]]:
    return [(line["status"], line.get("reason")) for line in proxy.events("request.finished")]


def parse(lines: list[bytes]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The lines that are JSON, and those that are not."""
    valid, torn = [], []
    for line in lines:
        try:
            valid.append(json.loads(line))
        except ValueError:
            torn.append(line)
    return valid, torn


def test_sigterm_lets_a_stream_end_and_exits_0(
    stream: Stream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[stream.upstream])
    with begin(proxy) as wire:
        proxy.process.send_signal(signal.SIGTERM)
        expect_not_listening(proxy)
        assert proxy.admin("/healthz")[0] == 200
        status, page = proxy.admin("/readyz")
        assert status == 503
        assert b"does not accept" in page
        stream.end()
        assert [wire.read_chunk(), wire.read_chunk()] == [b"last", b""]
        assert proxy.process.wait(20) == 0
    assert ended(proxy) == [(200, None)]
    assert proxy.events()[-1]["event"] == "proxy.stopped"


def test_a_stream_that_outlasts_the_drain_time_is_cut_and_told_of(
    stream: Stream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[stream.upstream], arguments=["--drain-seconds", "0.3"])
    with begin(proxy) as wire:
        proxy.process.send_signal(signal.SIGTERM)
        assert not wire.read_until_closed().endswith(b"0\r\n\r\n")
        assert proxy.process.wait(20) == 0
    assert ended(proxy) == [(200, "timeout")]
    assert proxy.events()[-1]["event"] == "proxy.stopped"


def test_a_tunnel_that_the_shutdown_closes_was_not_closed_by_its_client(
    start_proxy: Callable[..., Proxy],
) -> None:
    proxy = start_proxy(POLICY)
    with proxy.tunnel("good.example") as wire:
        proxy.process.send_signal(signal.SIGTERM)
        assert wire.read_until_closed() == b""
        assert proxy.process.wait(20) == 0
    assert [line["reason"] for line in proxy.events("connection.rejected")] == ["timeout"]


def test_an_open_tunnel_takes_no_new_request_while_draining(
    stream: Stream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[stream.upstream])
    with proxy.tunnel("good.example") as idle, begin(proxy) as busy:
        proxy.process.send_signal(signal.SIGTERM)
        expect_not_listening(proxy)
        assert idle.read_until_closed() == b""
        with contextlib.suppress(*REFUSED):
            idle.send(GET)
        stream.end()
        assert [busy.read_chunk(), busy.read_chunk()] == [b"last", b""]
        assert busy.read_until_closed() == b""
        assert proxy.process.wait(20) == 0
    assert len(stream.upstream.requests) == 1
    assert ended(proxy) == [(200, None)]


def test_sigint_and_a_second_sigterm_end_it_as_well(
    stream: Stream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[stream.upstream], arguments=["--drain-seconds", "0.5"])
    with begin(proxy):
        proxy.process.send_signal(signal.SIGINT)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20) == 0


@pytest.mark.parametrize("torn_bytes", [0, 1, 40])
def test_after_sigkill_under_load_the_audit_goes_on_with_whole_lines(
    start_upstream: Callable[..., Upstream],
    start_proxy: Callable[..., Proxy],
    stream: Stream,
    torn_bytes: int,
) -> None:
    """What had been decided and has no end is a request that was under way."""
    other = start_upstream("other.example")
    policy = {"allow": [*POLICY["allow"], {"name": "other", "hosts": ["other.example"]}]}
    first = start_proxy(policy, upstreams=[stream.upstream, other])
    answered: list[int] = []

    def load() -> None:
        with contextlib.suppress(*REFUSED), first.tunnel("other.example") as wire:
            while True:
                answer = wire.request("GET / HTTP/1.1\nHost: other.example")
                answered.append(answer.status)

    with begin(first):
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        first.wait_until(lambda: len(answered) > 50)
        first.process.kill()
        first.process.wait()
        for thread in threads:
            thread.join(30)
    raw = first.audit_file.read_bytes()
    # A kill between two writes leaves whole lines; a machine that loses power may not.
    first.audit_file.write_bytes(raw[: len(raw) - torn_bytes])
    second = start_proxy(policy, upstreams=[stream.upstream, other], folder=first.folder)
    assert second.request("GET", "other.example").status == 200
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(20) == 0
    lines = second.audit_file.read_bytes().splitlines()
    valid, torn = parse(lines)
    assert len(torn) == (1 if torn_bytes > 1 else 0)
    decided = {line["request_id"] for line in valid if line["event"] == "request.decided"}
    finished = {line["request_id"] for line in valid if line["event"] == "request.finished"}
    under_way = {
        line["request_id"]
        for line in valid
        if line["event"] == "request.decided" and line["http"]["host"] == "good.example"
    }
    assert len(under_way) == 1
    assert under_way <= decided - finished
    # The stream, what each loading connection had open, and the line that was torn off.
    assert len(decided - finished) <= 1 + 3 + 1
    assert len(decided) >= len(answered)


MUCH = 8 << 20


async def much(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MUCH)
    writer.write(b"x" * MUCH)


def test_a_client_that_reads_slowly_gets_the_end_of_its_answer(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy]
) -> None:
    """The proxy has told of the end of the answer, and may hold a part of it, at SIGTERM."""
    good = start_upstream("good.example", handler=much)
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as wire:
        wire.send(GET)
        read = bytearray()
        while not proxy.events("request.finished"):
            read += wire.socket.recv(1 << 14)
        proxy.process.send_signal(signal.SIGTERM)
        expect_not_listening(proxy)
        read += wire.read_until_closed()
        assert len(read.partition(b"\r\n\r\n")[2]) == MUCH
        assert proxy.process.wait(30) == 0
    assert ended(proxy) == [(200, None)]


def test_a_large_answer_that_is_under_way_at_sigterm_arrives_whole(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy]
) -> None:
    good = start_upstream("good.example", handler=much)
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as wire:
        wire.send(GET)
        good.wait_for(lambda upstream: bool(upstream.requests))
        proxy.process.send_signal(signal.SIGTERM)
        expect_not_listening(proxy)
        assert len(wire.read().body) == MUCH
        assert proxy.process.wait(30) == 0
    assert ended(proxy) == [(200, None)]
