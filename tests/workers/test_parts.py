"""The pieces that make several processes one proxy, each by itself."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from understudy.admin.metrics import Metrics
from understudy.policy.load import load
from understudy.reasons import Reason
from understudy.workers.census import Census
from understudy.workers.channel import Begin, Take, pickled
from understudy.workers.cores import count_cores
from understudy.workers.ports import HeldPort
from understudy.workers.totals import SummedMetrics, count

POLICIES = sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page, as a scraper reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
@pytest.mark.parametrize("gateway", [{}, {"UNDERSTUDY_LLM_GATEWAY_URL": "https://gw.example"}])
def test_a_policy_arrives_as_it_was_sent(file: Path, gateway: dict[str, str]) -> None:
    policy = load(file, gateway).policy
    begin = Begin(("127.0.0.1", 9080), 9081, Take(policy, {"team": "sk-ant-placeholder"}))
    assert pickle.loads(pickled(begin)) == begin


def test_counts_are_added_and_those_of_the_dead_stay() -> None:
    own, one, two = SummedMetrics(), Metrics(), Metrics()
    own.audit_event("file", "written")
    for metrics, requests in ((one, 3), (two, 4)):
        for _ in range(requests):
            metrics.request_decided("deny", Reason.HOST_NOT_ALLOWED, None)
            metrics.observe_overhead(0.0004)
            metrics.audit_event("file", "written")
    two.hook_failed("requestheaders")  # a series that the supervisor has not
    denied = (("reason", "host_not_allowed"), ("rule", "none"), ("verdict", "deny"))
    own.counted(0, count(one.collect()))
    own.counted(1, count(two.collect()))
    own.bury(0)
    own.counted(0, count(Metrics().collect()))  # its successor begins at 0
    found = samples(own)
    assert found["understudy_requests_total", denied] == 7
    assert found["understudy_overhead_seconds_count", ()] == 7
    assert found["understudy_overhead_seconds_bucket", (("le", "0.00025"),)] == 0
    assert found["understudy_overhead_seconds_bucket", (("le", "0.0005"),)] == 7
    assert found["understudy_audit_events_total", (("result", "written"), ("sink", "file"))] == 8
    assert found["understudy_hook_errors_total", (("hook", "requestheaders"),)] == 1
    assert samples(Metrics()).keys() <= found.keys()


def test_a_worker_sees_the_connections_of_all() -> None:
    census = Census(3)
    seats = [census.seat(number) for number in range(3)]
    for number, seat in enumerate(seats):
        for _ in range(number + 1):
            seat.come("192.0.2.1")
            seat.come("2001:db8::1")
        seat.go("2001:db8::1")
    assert [seat.total() for seat in seats] == [9, 9, 9]
    assert census.total() == 9
    assert [seat.total_from("192.0.2.1") for seat in seats] == [6, 6, 6]
    assert seats[0].total_from("2001:db8::1") == 3
    assert seats[0].total_from("192.0.2.2") == 0
    census.forget(2)
    assert (seats[0].total(), seats[1].total_from("192.0.2.1")) == (4, 3)


@pytest.mark.parametrize(
    ("quota", "at_most"),
    [("max 100000", None), ("50000 100000", 1), ("250000 100000", 2), ("nonsense", None)],
)
def test_auto_is_no_more_than_a_containers_limit(
    tmp_path: Path, quota: str, at_most: int | None
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    unlimited = count_cores(tmp_path / "missing")
    assert unlimited >= 1
    assert count_cores(file) == min(unlimited, at_most or unlimited)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_held_port_refuses_connections_and_lets_only_sharers_in(host: str) -> None:
    held = HeldPort((host, 0))
    port = held.address[1]
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), 5)
        with socket.socket() as sharer:
            sharer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sharer.bind((host, port))
            sharer.listen()
            socket.create_connection((host, port), 5).close()
            with pytest.raises(OSError, match=f"{host}:{port}: cannot listen for agents"):
                HeldPort((host, port))
    finally:
        held.close()
