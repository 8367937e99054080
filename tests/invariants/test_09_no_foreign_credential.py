"""Invariant 9: a host bound to a connection accepts no other credential."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.scene import Scene
from tests.support.upstream import Upstream
from tests.support.world import SECRETS, World

KEYS = st.text(st.sampled_from("abcdefABCDEF0123456789-_."), min_size=16, max_size=60)
PLACES = st.sampled_from(
    [
        ("Authorization", "Bearer {}"),
        ("Authorization", "token {}"),
        ("Authorization", "{}"),
        ("X-Api-Key", "{}"),
        ("X_Api_Key", "{}"),
        ("Api-Key", "{}"),
        ("X-Goog-Api-Key", "{}"),
        ("X-Auth-Token", "{}"),
        ("Private-Token", "{}"),
        ("Cookie", "session={}"),
    ]
)


@pytest.mark.attack("foreign credential")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=KEYS, place=PLACES, beside_placeholder=st.booleans())
def test_no_key_of_the_agents_reaches_a_bound_host(
    world: World, key: str, place: tuple[str, str], beside_placeholder: bool
) -> None:
    scene = Scene(world.proxy, world.upstreams, SECRETS)
    name, form = place
    headers = [(name, form.format(key))]
    if beside_placeholder:
        carrier = "Authorization" if "key" in name.lower() else "X-Api-Key"
        value = scene.placeholder("good")
        headers.append((carrier, f"Bearer {value}" if carrier == "Authorization" else value))
    answer = scene.request("good.example", headers=headers)
    scene.settle()
    assert key.encode() not in scene.bytes_seen("good.example")
    if name != "Cookie":
        assert answer.reason in {"foreign_credential", "ambiguous_credential"}
        scene.expect_denied(answer, answer.reason)
    scene.leave()


def test_only_an_explicit_word_of_the_policy_lets_other_keys_pass(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene]
) -> None:
    good = start_upstream("good.example")
    connection = {
        "hosts": ["good.example"],
        "carriers": [{"bearer": True}],
        "secret": {"env": "KEY"},
        "allow_foreign_credentials": True,
    }
    policy = {
        "connections": {"good": connection},
        "allow": [{"name": "good", "connection": "good"}],
    }
    scene = start_scene(policy, [good], {}, environ={"KEY": "sk-real-opted-out-0123456789"})
    answer = scene.request("good.example", headers=[("Authorization", "Bearer my-own-key")])
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.header("authorization") == "Bearer my-own-key"
