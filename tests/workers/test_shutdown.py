"""The end of all workers is one end: drained, exit 0, told once, nobody left."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import pytest
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.workers.conftest import POLICY, Load, tunnels
from tests.workers.processes import nursery_of, wait_for_end, workers_of


def test_sigterm_under_load_ends_all_in_good_order(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers()
    family = [nursery_of(proxy), *workers_of(proxy)]
    with Load(proxy) as load:
        load.wait_for(100)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(40) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(proxy.address, 5)
        load.stop()
    wait_for_end(family)
    lines = proxy.events()
    assert lines[-1]["event"] == "proxy.stopped"
    events = [line["event"] for line in lines]
    assert (events.count("proxy.ready"), events.count("proxy.stopped")) == (1, 1)
    decided = {line["request_id"] for line in lines if line["event"] == "request.decided"}
    finished = {line["request_id"] for line in lines if line["event"] == "request.finished"}
    assert decided == finished
    # What was decided at the very end may be cut before it is sent; nothing is sent unrecorded.
    assert len(good.requests) <= len(finished)
    assert len(load.answered) <= len(finished)
    assert "takes its place" not in proxy.log
    assert "Traceback" not in proxy.log


def test_a_signal_to_every_process_of_the_group_ends_it_just_as_well(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    family = [nursery_of(proxy), *workers_of(proxy)]
    with tunnels(proxy, 6):
        for process in (*family, proxy.process.pid):
            os.kill(process, signal.SIGTERM)
        assert proxy.process.wait(40) == 0
    wait_for_end(family)
    assert proxy.events()[-1]["event"] == "proxy.stopped"
    assert "Traceback" not in proxy.log


def test_a_policy_that_is_missing_at_the_start_takes_force_in_every_worker_when_it_comes(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers({"allow": "nonsense"})
    with proxy.wire() as wire:
        assert wire.connect("good.example:443").reason == "policy_missing"
    status, page = proxy.admin("/readyz")
    assert (status, b"no policy is in force" in page) == (503, True)
    place = {f"{good.name}:443": good.connect_to}
    trust = {"upstream": proxy.policy["upstream"] | {"connect_to": place}}  # type: ignore[index] # a dict
    proxy.write_policy({"version": 1} | POLICY | trust)
    proxy.wait_for_events("policy.loaded")
    get = f"GET / HTTP/1.1\nHost: good.example\nX-Key: {proxy.placeholder('good')}"
    with tunnels(proxy, 20) as wires:
        assert {wire.request(get).status for wire in wires} == {200}
    assert proxy.admin("/readyz")[0] == 200
