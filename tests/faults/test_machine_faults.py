"""The machine runs out of descriptors, its clock jumps: refused or served, never waved through."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.client import REFUSED, Wire
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

from understudy.engine.dialer import Dialer, DialPlan
from understudy.engine.ports import NO_DESCRIPTORS
from understudy.policy.load import load
from understudy.reasons import Reason

POLICY = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
GET = "GET / HTTP/1.1\nHost: good.example"
needs_prlimit = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="limits of another process are Linux's prlimit"
)


@pytest.fixture
def good(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream("good.example")


@contextmanager
def descriptors(proxy: Proxy, spare: int) -> Iterator[None]:
    """The proxy may open this many descriptors more than it has."""
    pid = proxy.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The limit is on the highest number; the lowest free one is taken.
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    limit, free = 0, 0
    while free < spare or limit in used:
        free += limit not in used
        limit += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def ask(wire: Wire) -> tuple[int, str]:
    """Status and reason; (0, "") where the connection was closed instead."""
    try:
        answer = wire.request(GET)
    except REFUSED:
        return 0, ""
    return answer.status, "" if answer.status == 200 else answer.reason


@needs_prlimit
@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_without_descriptors_requests_are_refused_and_service_resumes(
    good: Upstream, start_proxy: Callable[..., Proxy], spare: int
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good])
    with contextlib.ExitStack() as open_wires:
        tunnels = [open_wires.enter_context(proxy.tunnel("good.example")) for _ in range(5)]
        with descriptors(proxy, spare):
            outcomes = [ask(tunnel) for tunnel in tunnels]
        assert set(outcomes) <= {(200, ""), (502, "upstream_failed"), (503, "audit_unavailable")}
        # With one to spare an engine may serve all tunnels through one connection upstream.
        assert spare > 0 or {status for status, _ in outcomes} != {200}
        assert len(good.requests) == [status for status, _ in outcomes].count(200)
    assert [proxy.request("GET", "good.example").status for _ in range(6)] == [200] * 6
    assert len(proxy.events("request.decided")) == 11


@needs_prlimit
def test_connections_that_cannot_be_accepted_wait_and_are_served_later(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as old:
        assert ask(old) == (200, "")
        with descriptors(proxy, 0):
            waiting = [proxy.wire() for _ in range(3)]
            proxy.wait_until(lambda: NO_DESCRIPTORS in proxy.log)
            assert ask(old) == (200, "")
        assert proxy.log.count("descriptors") < 50, "it tries again and again"
        for wire in waiting:
            with wire:
                assert wire.connect("good.example:443").status == 200
                assert ask(wire.start_tls("good.example")) == (200, "")
    assert proxy.admin("/healthz")[0] == 200


@needs_prlimit
def test_without_descriptors_a_policy_that_cannot_be_read_changes_nothing(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as wire:
        assert ask(wire) == (200, "")
        proxy.wait_for_events("request.finished")
        with descriptors(proxy, 0):
            text = proxy.policy_file.read_text()
            proxy.write_policy(text.replace("name: good", "name: renamed"))
            proxy.process.send_signal(signal.SIGHUP)
            proxy.wait_for_events("policy.rejected")
            assert ask(wire) == (200, "")
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_for_events("policy.loaded", 2)
        assert ask(wire) == (200, "")
    assert [line["rule"] for line in proxy.events("request.decided")] == [
        "good",
        "good",
        "renamed",
    ]


@pytest.fixture
def clock(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Puts the proxy's clock ahead by so many seconds; gives the environment that it needs."""

    def put(seconds: int) -> dict[str, str]:
        fresh = tmp_path / "clock.new"
        fresh.write_text(str(seconds))
        fresh.replace(tmp_path / "clock")
        return {"UNDERSTUDY_SPY_CLOCK": str(tmp_path / "clock")}

    return put


def test_a_ca_that_expires_is_told_of_as_ours_and_nothing_is_sent(
    good: Upstream, start_proxy: Callable[..., Proxy], clock: Callable[[int], dict[str, str]]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good], environ=clock(0))
    assert proxy.request("GET", "good.example").status == 200
    clock(400 * 86400)
    with proxy.wire() as wire, contextlib.suppress(*REFUSED):
        assert wire.connect("good.example:443").status == 200
        wire.start_tls("good.example").request(GET)
    (rejected,) = proxy.wait_for_events("connection.rejected")
    assert rejected["reason"] == "internal_error"
    status, page = proxy.admin("/readyz")
    assert (status, b"the CA has expired" in page) == (503, True)
    assert len(good.requests) == 1
    clock(0)
    assert proxy.request("GET", "good.example").status == 200
    assert proxy.admin("/readyz")[0] == 200


def test_a_clock_that_is_put_right_leaves_no_certificate_of_the_future(
    good: Upstream, start_proxy: Callable[..., Proxy], clock: Callable[[int], dict[str, str]]
) -> None:
    """A machine may boot with a clock that is ahead."""
    first = start_proxy(POLICY, upstreams=[good])
    first.process.terminate()
    first.process.wait(30)
    proxy = start_proxy(POLICY, upstreams=[good], folder=first.folder, environ=clock(2 * 86400))
    with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
        proxy.tunnel("good.example")
    clock(0)
    assert proxy.request("GET", "good.example").status == 200


@pytest.mark.parametrize("jump_seconds", [40 * 86400, -40 * 86400])
def test_a_clock_that_jumps_changes_time_stamps_and_nothing_else(
    good: Upstream,
    start_proxy: Callable[..., Proxy],
    tmp_path: Path,
    clock: Callable[[int], dict[str, str]],
    jump_seconds: int,
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-real-timely-0123456789abcdef")
    policy = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"file": str(key)},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    proxy = start_proxy(policy, upstreams=[good], environ=clock(0))
    head = f"{GET}\nX-Api-Key: {proxy.placeholder('good')}"

    with proxy.tunnel("good.example") as wire:
        assert wire.request(head).status == 200
        clock(jump_seconds)
        for _ in range(3):
            assert wire.request(head).status == 200
        key.write_text("sk-real-changed-0123456789abcdef")
        assert wire.request(head).status == 200
        clock(0)
        assert wire.request(head).status == 200
    assert [received.header("x-api-key") for received in good.requests[-2:]] == [
        "sk-real-changed-0123456789abcdef"
    ] * 2
    finished = proxy.wait_for_events("request.finished", 6)
    times = [datetime.datetime.fromisoformat(line["time"]) for line in finished]
    assert abs((times[2] - times[0]).total_seconds() - jump_seconds) < 60
    for line in finished:
        assert 0 <= line["overhead_ms"] <= line["first_byte_ms"] <= line["duration_ms"] < 60_000
    assert proxy.admin("/readyz")[0] == 200
    assert len({line["request_id"] for line in finished}) == 6


def test_without_descriptors_the_proxys_own_port_is_still_no_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether an address is ours takes a socket to find out; without one it counts as ours."""
    file = tmp_path / "policy.yaml"
    file.write_text(
        "version: 1\n"
        "allow: [{name: a, hosts: [a.example]}]\n"
        "upstream: {connect_to: {'a.example:443': '192.0.2.1:9080'}}\n"
    )
    policy = load(file, {}).policy
    dialer = Dialer(lambda: [9080])

    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def plan() -> DialPlan | Reason:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", no_descriptor)
            return await dialer.plan("a.example", 443, policy)

    assert asyncio.run(plan()) is Reason.ADDRESS_DENIED
    assert isinstance(asyncio.run(dialer.plan("a.example", 443, policy)), DialPlan)


@needs_prlimit
def test_the_proxy_may_open_all_the_descriptors_that_it_is_allowed(
    start_proxy: Callable[..., Proxy],
) -> None:
    soft, hard = resource.prlimit(start_proxy(POLICY).process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
