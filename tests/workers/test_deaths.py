"""Processes that die: replaced, told of, and nobody else's requests are touched."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.client import REFUSED
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.workers.conftest import POLICY, SECRET, WORKERS, Load, tunnels
from tests.workers.processes import (
    children_of,
    nursery_of,
    wait_for_end,
    wait_for_workers,
    workers_of,
)

pytestmark = pytest.mark.engine("express")  # processes die alike, whatever they run
ALLOWED = 'understudy_requests_total{reason="allowed",rule="good",verdict="allow"}'


def ids(proxy: Proxy, event: str) -> set[str]:
    return {line["request_id"] for line in proxy.events(event)}


def test_a_worker_killed_under_load_is_replaced_and_no_answer_is_without_its_line(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers()
    before = set(workers_of(proxy))
    victim = min(before)
    clients = 6
    with Load(proxy, clients) as load:
        load.wait_for(100)
        os.kill(victim, signal.SIGKILL)
        after = set(wait_for_workers(proxy, WORKERS, without={victim}))
        load.wait_for(200)
    assert len(after & before) == WORKERS - 1
    assert set(load.answered) == {200}
    # Each client had one connection, so no more than that many broke.
    assert load.broken <= clients
    assert len(ids(proxy, "request.decided")) >= len(load.answered)
    open_ends = ids(proxy, "request.decided") - ids(proxy, "request.finished")
    assert len(open_ends) <= clients
    assert {r.header("x-key") for r in good.requests} == {SECRET}
    place = f"(process {victim}) was killed by SIGKILL; another takes its place now"
    assert place in proxy.log
    (successor,) = after - before
    assert f"(process {successor}) serves" in proxy.log


def test_many_kills_under_load_leave_whole_lines_and_a_proxy_that_serves(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    kills = 5
    with Load(proxy) as load:
        for _ in range(kills):
            load.wait_for(20)
            victim = workers_of(proxy)[0]
            os.kill(victim, signal.SIGKILL)
            wait_for_workers(proxy, WORKERS, without={victim})
        load.wait_for(50)
    assert set(load.answered) == {200}
    assert len(ids(proxy, "request.decided")) >= len(load.answered)
    assert proxy.log.count("was killed by SIGKILL; another takes its place") == kills


def test_readiness_tells_which_worker_is_missing_and_why_and_pauses_grow(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    pages: list[bytes] = []

    def not_ready() -> bool:
        for worker in workers_of(proxy):
            os.kill(worker, signal.SIGKILL)
        status, page = proxy.admin("/readyz")
        pages.append(page)
        return status == 503 and b"does not serve: it was killed by SIGKILL" in page

    proxy.wait_until(not_ready)
    proxy.wait_until(lambda: not_ready() and "takes its place in 0.2 seconds" in proxy.log)
    assert b"of 3 does not serve" in pages[-1]
    assert proxy.admin("/healthz")[0] == 200
    wait_for_workers(proxy, WORKERS)
    headers = {"X-Key": proxy.placeholder("good")}
    assert proxy.request("GET", "good.example", headers=headers).status == 200


def test_a_clients_connections_are_counted_in_all_workers(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers(POLICY | {"limits": {"max_connections_per_client": 20}})
    with tunnels(proxy, 20) as wires:
        for _ in range(10):
            with proxy.wire() as wire:
                wire.send(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
                assert b" 200 " not in wire.read_until_closed()
        wires[0].close()
        proxy.wait_until(lambda: proxy.open_connections() < 20)
        proxy.tunnel("good.example").close()
    reasons = [line["reason"] for line in proxy.events("connection.rejected")]
    assert reasons.count("too_many_connections") == 10


def test_what_a_dead_worker_counted_stays_and_its_connections_are_gone(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers(POLICY | {"limits": {"max_connections": 40}})
    get = f"GET / HTTP/1.1\nHost: good.example\nX-Key: {proxy.placeholder('good')}"
    with tunnels(proxy, 40) as wires:
        for wire in wires:
            assert wire.request(get).status == 200
        proxy.wait_until(lambda: proxy.metrics()[ALLOWED] == 40)
        assert proxy.open_connections() == 40
        with proxy.wire() as wire:
            wire.send(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
            assert b" 200 " not in wire.read_until_closed()
        victim = workers_of(proxy)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for_workers(proxy, WORKERS, without={victim})
        assert proxy.metrics()[ALLOWED] == 40
        assert 0 < proxy.open_connections() < 40
        with proxy.tunnel("good.example") as fresh:
            assert fresh.request(get).status == 200
        assert proxy.metrics()[ALLOWED] == 41
    reasons = [line["reason"] for line in proxy.events("connection.rejected")]
    assert reasons == ["too_many_connections"]


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    with Load(proxy) as load:
        load.wait_for(50)
        victim = workers_of(proxy)[0]
        os.kill(victim, signal.SIGTERM)
        wait_for_workers(proxy, WORKERS, without={victim})
        load.wait_for(50)
    assert f"(process {victim}) ended with exit code 0; another takes its place" in proxy.log
    proxy.wait_until(lambda: proxy.open_connections() == 0)
    assert ids(proxy, "request.decided") == ids(proxy, "request.finished")
    assert proxy.metrics()[ALLOWED] == len(ids(proxy, "request.decided"))


@pytest.mark.parametrize("clients", [0, 3])
def test_without_its_supervisor_no_worker_goes_on(
    start_workers: Callable[..., Proxy], clients: int
) -> None:
    proxy = start_workers()
    family = [nursery_of(proxy), *workers_of(proxy)]
    with Load(proxy, clients):
        proxy.process.kill()
        proxy.process.wait()
        wait_for_end(family)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, 5)


def test_where_workers_cannot_be_replaced_any_more_the_proxy_ends_and_says_so(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    nursery, workers = nursery_of(proxy), workers_of(proxy)
    os.kill(nursery, signal.SIGKILL)
    assert proxy.process.wait(30) == 1
    wait_for_end(workers)
    assert "the process that starts workers has ended" in proxy.log
    assert "Traceback" not in proxy.log
    assert proxy.events()[-1]["event"] == "proxy.stopped"


def test_one_worker_is_no_process_of_its_own(start_proxy: Callable[..., Proxy]) -> None:
    policy: dict[str, Any] = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
    proxy = start_proxy(policy, arguments=["--workers", "1"])
    assert children_of(proxy.process.pid) == []


def test_connections_to_a_dead_worker_break_and_are_not_left_waiting(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    with tunnels(proxy, 12) as wires:
        for worker in workers_of(proxy):
            os.kill(worker, signal.SIGKILL)
        for wire in wires:
            with pytest.raises(REFUSED):
                wire.request("GET / HTTP/1.1\nHost: good.example")
