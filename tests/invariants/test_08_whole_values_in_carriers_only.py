"""Invariant 8: a swap happens only on a whole-value match in a configured carrier."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.scene import Scene, forms_of
from tests.support.world import GOOD_SECRET, SECRETS, World

NAMES = st.sampled_from(
    ["X-Api-Key", "Authorization", "X-Debug", "Cookie", "User-Agent", "Referer", "X-Goog-Api-Key",
     "Proxy-Authorization", "Accept", "X-Api-Key2"]
)  # fmt: skip
PIECES = st.text(st.sampled_from("abcXYZ019-._~:=/ "), max_size=6)
WRAPS = st.sampled_from(
    [
        lambda p: p,
        lambda p: f"Bearer {p}",
        lambda p: f"token {p}",
        lambda p: "Basic " + base64.b64encode(f"user:{p}".encode()).decode(),
        lambda p: "Basic " + base64.b64encode(f"{p}:".encode()).decode(),
        lambda p: urllib.parse.quote(p).replace("-", "%2D"),
        lambda p: base64.b64encode(p.encode()).decode(),
        lambda p: p[::-1],
        lambda p: p.upper(),
        lambda p: p[:-1],
        lambda p: p + p,
    ]
)


@pytest.mark.attack("misplaced placeholder")
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=NAMES, before=PIECES, after=PIECES, wrap=WRAPS, inside=st.booleans())
def test_the_secret_goes_up_only_for_the_whole_placeholder_in_a_carrier(
    world: World, *, name: str, before: str, after: str, wrap: Callable[[str], str], inside: bool
) -> None:
    scene = Scene(world.proxy, world.upstreams, SECRETS)
    placeholder = scene.placeholder("good")
    value = wrap(before + placeholder + after) if inside else before + wrap(placeholder) + after
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"GET / HTTP/1.1\nHost: good.example\n{name}: {value}")
    scene.settle()
    went_up = any(form in scene.bytes_seen("good.example") for form in forms_of(GOOD_SECRET))
    if went_up:
        assert answer.status == 200
        bare = value.strip()
        assert placeholder in {bare, bare.partition(" ")[2].strip(), basic_password(bare)}
        assert name in {"X-Api-Key", "Authorization"}
        (line,) = scene.events("request.decided")
        assert len(line["swapped"]) == 1
    else:
        assert all("swapped" not in line for line in scene.events("request.decided"))
    scene.leave()


def basic_password(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme != "Basic":
        return ""
    return base64.b64decode(token).decode("latin-1").partition(":")[2]


def test_a_body_is_never_searched_or_changed(scene: Scene) -> None:
    body = scene.placeholder("good").encode() * 3
    answer = scene.request("good.example", method="POST", body=body)
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.body == body
