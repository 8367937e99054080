"""Invariant 11: at the gateway only its declared routes, with our credential and our headers."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.gateways.apply import Routed, route
from understudy.gateways.preset import gateway_presets
from understudy.policy.model import Gateway

PRESETS = gateway_presets()
PAIRS = [(kind, provider) for kind in PRESETS for provider in PRESETS[kind].providers]
ADMINISTRATION = ["key", "user", "team", "config", "admin", "models", "..", "metrics", "v1", "%2e"]


def gateway(kind: str) -> Gateway:
    preset = PRESETS[kind]
    return Gateway(
        preset=preset,
        scheme="https",
        host="gateway.example",
        port=443,
        path_prefix="",
        providers=frozenset(preset.providers),
        settings=MappingProxyType(dict.fromkeys(preset.settings, "x")),
    )


@pytest.mark.parametrize(("kind", "provider"), PAIRS)
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"]),
    segments=st.lists(st.sampled_from(ADMINISTRATION), min_size=1, max_size=5),
    host_is_gateway=st.booleans(),
)
def test_what_is_no_declared_route_never_goes_to_the_gateway(
    kind: str, provider: str, method: str, segments: list[str], *, host_is_gateway: bool
) -> None:
    path = "/" + "/".join(segments)
    routed = route(
        gateway(kind), provider, method, path.encode(), [], host_is_gateway=host_is_gateway
    )
    if not isinstance(routed, Routed):
        return
    entry = PRESETS[kind].providers[provider]
    declared = [open_route for open_route in entry.routes if open_route.method == method]
    restored = [p for p in (path, entry.restore(path)) if p is not None]
    assert any(r.path.matches(p) for r in declared for p in restored), (method, path)
    assert (routed.scheme, routed.host, routed.port) == ("https", "gateway.example", 443)
    assert b".." not in routed.target


@pytest.mark.parametrize(("kind", "provider"), PAIRS)
def test_no_control_header_of_a_client_passes(kind: str, provider: str) -> None:
    preset = PRESETS[kind]
    open_route = preset.providers[provider].routes[0]
    path = open_route.path.text.replace("**", "x").replace("*", "x").encode()
    assert isinstance(route(gateway(kind), provider, open_route.method, path, []), Routed)
    for prefix in preset.control_prefixes:
        for name in (prefix + "x", (prefix + "x").upper(), (prefix + "x").replace("-", "_")):
            headers = [(name.encode(), b"https://evil.example")]
            routed = route(gateway(kind), provider, open_route.method, path, headers)
            if isinstance(routed, Routed):
                assert name.encode() in routed.headers_to_drop, name
