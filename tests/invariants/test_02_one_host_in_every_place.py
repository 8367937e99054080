"""Invariant 2: CONNECT host = server name (if sent) = Host, same port; else nothing goes up."""

from __future__ import annotations

import itertools

import pytest
from tests.support.client import REFUSED
from tests.support.scene import Scene
from tests.support.world import SECRETS, World

HOSTS = ("good.example", "other.example", "evil.example")
ALLOWED = {"good.example", "other.example"}


def attempt(scene: Scene, tunnel: str, server_name: str | None, host: str) -> int | None:
    """The status that a client with three opinions gets; None where it is closed."""
    wire = scene.wire()
    try:
        answer = wire.connect(f"{tunnel}:443")
        if answer.status == 200:
            wire.start_tls(server_name, verify=False)
            answer = wire.request(f"GET / HTTP/1.1\nHost: {host}")
    except REFUSED:
        return None
    return answer.status


def expected_reason(tunnel: str, server_name: str | None) -> str:
    if tunnel not in ALLOWED:
        return "host_not_allowed"
    return "host_mismatch" if server_name in (tunnel, None) else "sni_mismatch"


@pytest.mark.attack("other host header")
def test_only_three_equal_opinions_go_upstream(world: World) -> None:
    for tunnel, server_name, host in itertools.product(HOSTS, (*HOSTS, None), HOSTS):
        scene = Scene(world.proxy, world.upstreams, SECRETS)
        status = attempt(scene, tunnel, server_name, host)
        case = (tunnel, server_name, host, status)
        if tunnel in ALLOWED and server_name in (tunnel, None) and host == tunnel:
            assert status == 200, case
            scene.expect_allowed(tunnel)
            assert set(scene.server_names_seen(tunnel)) <= {tunnel}
        else:
            assert status in (None, 403, 421), case
            assert scene.verdict()["reason"] == expected_reason(tunnel, server_name), case
            scene.expect_nothing_upstream()
        scene.leave()


@pytest.mark.attack("other host header")
def test_a_host_header_with_any_other_port_goes_nowhere(world: World) -> None:
    for port in (0, 1, 22, 80, 442, 444, 8443, 65535, 65536):
        scene = Scene(world.proxy, world.upstreams, SECRETS)
        with scene.tunnel("good.example") as wire:
            answer = wire.request(f"GET / HTTP/1.1\nHost: good.example:{port}")
        assert answer.reason in {"host_mismatch", "bad_header"}, port
        scene.expect_nothing_upstream()
        scene.leave()


def test_the_default_port_may_be_written_out(scene: Scene) -> None:
    with scene.tunnel("good.example") as wire:
        assert wire.request("GET / HTTP/1.1\nHost: good.example:443").status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.header("host") == "good.example"
