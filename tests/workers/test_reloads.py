"""What the supervisor reads holds in every worker, and is told once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.workers.conftest import POLICY, SECRET, WORKERS, Load, tunnels
from tests.workers.processes import is_zombie, wait_for_workers, workers_of

MANY = 40
"""Tunnels. That one of three workers gets none of them has a chance of one in four million."""


def test_a_denial_holds_in_every_worker_once_its_policy_is_in_the_audit(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers()
    key = f"X-Key: {proxy.placeholder('good')}"
    get = f"GET / HTTP/1.1\nHost: good.example\n{key}"
    with tunnels(proxy, MANY) as wires:
        assert {wire.request(get).status for wire in wires} == {200}
        deny = {"deny": [{"name": "closed", "hosts": ["good.example"]}]}
        proxy.write_policy(proxy.policy | deny)
        loaded = proxy.wait_for_events("policy.loaded", 2)
        reasons = {wire.request(get).reason for wire in wires}
        assert reasons == {"denied_by_rule"}
    with proxy.wire() as wire:
        assert wire.connect("good.example:443").reason == "denied_by_rule"
    assert len(good.requests) == MANY
    assert len(proxy.events("policy.loaded")) == 2
    digests = {line["policy_digest"] for line in proxy.events("request.decided")}
    assert digests == {line["policy_digest"] for line in loaded}
    reloads = 'understudy_policy_reloads_total{result="loaded"}'
    assert proxy.metrics()[reloads] == 2


def test_a_bad_policy_changes_no_worker_and_is_told_once(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    proxy.write_policy("version: 1\nallow: nonsense\n")
    proxy.wait_for_events("policy.rejected")
    get = f"GET / HTTP/1.1\nHost: good.example\nX-Key: {proxy.placeholder('good')}"
    with tunnels(proxy, MANY) as wires:
        assert {wire.request(get).status for wire in wires} == {200}
    assert len(proxy.events("policy.rejected")) == 1
    (digest,) = {line["policy_digest"] for line in proxy.events("request.decided")}
    assert digest == proxy.events("policy.loaded")[0]["policy_digest"]


def test_a_new_connections_placeholder_is_one_in_all_workers(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers(environ={"MORE_KEY": "sk-real-more-0123456789abcdef"})
    more = POLICY["connections"]["good"] | {"secret": {"env": "MORE_KEY"}}
    proxy.write_policy(
        proxy.policy
        | {
            "connections": POLICY["connections"] | {"more": more},
            "allow": [*POLICY["allow"], {"name": "more", "connection": "more"}],
        }
    )
    proxy.wait_for_events("policy.loaded", 2)
    get = f"GET / HTTP/1.1\nHost: good.example\nX-Key: {proxy.placeholder('more')}"
    with tunnels(proxy, MANY) as wires:
        assert {wire.request(get).status for wire in wires} == {200}
    assert {r.header("x-key") for r in good.requests} == {"sk-real-more-0123456789abcdef"}
    assert SECRET not in str(proxy.everything_written())


@pytest.mark.engine("express")
def test_a_worker_that_does_not_take_a_policy_is_killed_before_it_is_told_of(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    stopped = workers_of(proxy)[0]
    os.kill(stopped, signal.SIGSTOP)
    proxy.write_policy(proxy.policy | {"deny": [{"name": "closed", "hosts": ["good.example"]}]})
    proxy.wait_for_events("policy.loaded", 2)
    assert is_zombie(stopped)
    assert "did not take the policy within 10 seconds and is killed" in proxy.log
    wait_for_workers(proxy, WORKERS, without={stopped})
    for _ in range(20):
        with proxy.wire() as wire:
            assert wire.connect("good.example:443").reason == "denied_by_rule"


def test_after_sighup_every_worker_writes_to_the_new_file_and_no_line_is_lost(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    rotated = proxy.audit_file.with_suffix(".1")
    with Load(proxy) as load:
        load.wait_for(100)
        proxy.audit_file.rename(rotated)
        proxy.process.send_signal(signal.SIGHUP)
        load.wait_for(200)
    proxy.wait_until(lambda: proxy.open_connections() == 0)
    new = proxy.events()
    rotated.rename(proxy.audit_file)
    old = proxy.events()
    for event in ("request.decided", "request.finished"):
        lines = [line for line in (*old, *new) if line["event"] == event]
        assert len({line["request_id"] for line in lines}) == len(load.answered), event
    assert len([line for line in new if line["event"] == "request.finished"]) >= 100
