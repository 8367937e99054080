"""Invariant 1: a secret goes only where the verified TLS name is its host's, or to the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trustme
from tests.support.scene import Scene
from tests.support.upstream import Upstream

SECRET = "sk-real-first-invariant-0123456789"
GOOD = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}


def openai_at(url: str) -> dict[str, Any]:
    return {
        "gateway": {"url": url, "kind": "generic", "providers": ["openai"]},
        "connections": {"gpt": {"provider": "openai", "secret": {"env": "KEY"}}},
        "allow": [{"name": "gpt", "connection": "gpt"}],
    }


def ask_openai(scene: Scene) -> int:
    headers = [("Authorization", f"Bearer {scene.placeholder('gpt')}")]
    return scene.request("api.openai.com", "/v1/models", headers=headers).status


@pytest.mark.attack("bad upstream")
def test_another_server_at_the_hosts_address_gets_nothing(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    """The network leads good.example to evil, who has a trusted certificate of its own."""
    evil = start_upstream("evil.example")
    policy = GOOD | {"upstream": {"connect_to": {"good.example:443": evil.connect_to}}}
    scene = start_scene(policy, [evil], {SECRET: []}, environ={"KEY": SECRET})
    answer = scene.request("good.example", headers=[("X-Api-Key", scene.placeholder("good"))])
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    assert scene.bytes_seen("evil.example") == b""
    assert scene.server_names_seen("evil.example") == ["good.example"]


def test_the_name_that_is_verified_is_the_decided_one_not_the_clients(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    good = start_upstream("good.example", neighbours=("evil.example",))
    scene = start_scene(GOOD, [good], {SECRET: ["good.example"]}, environ={"KEY": SECRET})
    with scene.wire() as wire:
        assert wire.connect("GOOD.example.:443").status == 200
        wire.start_tls("GOOD.Example")
        answer = wire.request(
            f"GET / HTTP/1.1\nHost: good.EXAMPLE\nX-Api-Key: {scene.placeholder('good')}"
        )
    assert answer.status == 200
    assert scene.server_names_seen("good.example") == ["good.example"]
    (received,) = scene.expect_allowed("good.example")
    assert received.header("x-api-key") == SECRET


def test_the_gateway_gets_the_secret_and_the_provider_no_connection(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    gateway, openai = start_upstream("gateway.example"), start_upstream("api.openai.com")
    scene = start_scene(
        openai_at("https://gateway.example"),
        [gateway, openai],
        {SECRET: ["gateway.example"]},
        environ={"KEY": SECRET},
    )
    assert ask_openai(scene) == 200
    scene.expect_allowed("gateway.example")
    assert SECRET.encode() in scene.bytes_seen("gateway.example")
    assert scene.connections_seen("api.openai.com") == 0


@pytest.mark.attack("bad upstream")
@pytest.mark.parametrize("fault", ["wrong name", "not trusted", "down"])
def test_a_gateway_that_is_not_itself_gets_nothing_and_nobody_stands_in(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    upstream_ca: trustme.CA,
    fault: str,
) -> None:
    certificate = {
        "wrong name": upstream_ca.issue_cert("api.openai.com"),
        "not trusted": trustme.CA().issue_cert("gateway.example"),
        "down": None,
    }[fault]
    gateway = start_upstream("gateway.example", certificate=certificate)
    openai = start_upstream("api.openai.com")
    policy = openai_at("https://gateway.example")
    if fault == "down":
        policy["upstream"] = {"connect_to": {"gateway.example:443": "127.0.0.1:1"}}
    scene = start_scene(policy, [gateway, openai], {SECRET: []}, environ={"KEY": SECRET})
    assert ask_openai(scene) == 502
    for name in ("gateway.example", "api.openai.com"):
        assert scene.bytes_seen(name) == b""
    assert scene.connections_seen("api.openai.com") == 0


def test_a_plain_gateway_is_reached_at_its_declared_place_only(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    gateway = start_upstream("127.0.0.1", tls=False)
    openai = start_upstream("api.openai.com")
    policy = openai_at(f"http://127.0.0.1:{gateway.port}")
    scene = start_scene(policy, [gateway, openai], {SECRET: ["127.0.0.1"]}, environ={"KEY": SECRET})
    assert ask_openai(scene) == 200
    (received,) = scene.expect_allowed("127.0.0.1")
    assert received.header("authorization") == f"Bearer {SECRET}"
    assert received.header("host") == f"127.0.0.1:{gateway.port}"


@pytest.mark.attack("no tls")
def test_plain_http_to_a_bound_host_carries_no_secret(scene: Scene) -> None:
    with scene.wire() as wire:
        answer = wire.request(
            "GET http://good.example:443/ HTTP/1.1\nHost: good.example:443\n"
            f"X-Api-Key: {scene.placeholder('good')}"
        )
    scene.expect_denied(answer, "tls_required")
