"""The audit cannot be written: nothing is forwarded; it can again: service resumes."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.scene import Scene
from tests.support.upstream import Upstream

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="a full disk is simulated with Linux's prlimit"
)
POLICY = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
HEAD = "GET / HTTP/1.1\nHost: good.example"


@pytest.fixture
def good(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream("good.example")


@contextmanager
def full_disk(scene: Scene, spare_bytes: int = 0) -> Iterator[None]:
    """No file of the proxy grows beyond the audit's size now."""
    pid = scene.proxy.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    size = scene.proxy.audit_file.stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + spare_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.attack("audit outage")
@pytest.mark.parametrize("spare_bytes", [0, 1, 50])
def test_full_disk_is_503_and_service_resumes_with_room(
    good: Upstream, start_scene: Callable[..., Scene], spare_bytes: int
) -> None:
    scene = start_scene(POLICY, [good], {})
    with scene.tunnel("good.example") as wire:
        assert wire.request(HEAD).status == 200
        scene.proxy.wait_for_events("request.finished")
        with full_disk(scene, spare_bytes):
            answer = wire.request(HEAD)
            assert (answer.status, answer.reason) == (503, "audit_unavailable")
            assert wire.request(HEAD).reason == "audit_unavailable"
        assert wire.request(HEAD).status == 200
    scene.settle()
    assert len(scene.seen("good.example")) == 2
    assert len(scene.events("request.finished")) == 2


@pytest.mark.attack("audit outage")
def test_full_disk_refuses_new_tunnels_requests_and_connections_alike(
    good: Upstream, start_scene: Callable[..., Scene]
) -> None:
    scene = start_scene(POLICY, [good], {})
    with full_disk(scene):
        with scene.wire() as wire:
            assert wire.connect("evil.example:443").status in {403, 503}
        answer = scene.request("good.example")
        assert answer.reason == "audit_unavailable"
        assert scene.proxy.admin("/healthz")[0] == 200
    scene.expect_nothing_upstream()
    failed = 'understudy_audit_events_total{result="failed",sink="file"}'
    assert scene.proxy.metrics()[failed] >= 2


@pytest.mark.attack("audit outage")
def test_best_effort_forwards_without_an_audit(
    good: Upstream, start_scene: Callable[..., Scene]
) -> None:
    scene = start_scene(POLICY, [good], {}, arguments=["--audit-failure", "best_effort"])
    with full_disk(scene):
        assert scene.request("good.example").status == 200
    assert len(scene.seen("good.example")) == 1
