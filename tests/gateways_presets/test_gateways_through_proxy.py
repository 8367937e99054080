"""Each kind of gateway, from a client's socket to a pretend gateway's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

KEY = "sk-gateway-real-0123456789abcdef"
ANTHROPIC = {"provider": "anthropic", "secret": {"env": "GATEWAY_KEY"}}
KINDS = [
    # kind, settings of the gateway, path there, where the key stands there
    ("litellm", {}, "/v1/messages", ("x-api-key", KEY)),
    ("generic", {}, "/v1/messages", ("x-api-key", KEY)),
    ("portkey", {}, "/v1/messages", ("x-portkey-api-key", KEY)),
    (
        "cloudflare",
        {"settings": {"account": "acc", "gateway": "gw"}},
        "/v1/acc/gw/anthropic/v1/messages",
        ("cf-aig-authorization", f"Bearer {KEY}"),
    ),
    ("openrouter", {}, "/api/v1/messages", ("authorization", f"Bearer {KEY}")),
]


@pytest.mark.parametrize(("kind", "extra", "path", "place"), KINDS, ids=[row[0] for row in KINDS])
def test_the_gateway_gets_its_key_in_its_own_place_and_the_provider_nothing(
    kind: str,
    extra: dict[str, object],
    path: str,
    place: tuple[str, str],
    *,
    start_proxy: Callable[..., Proxy],
    start_upstream: Callable[..., Upstream],
) -> None:
    provider, gateway = start_upstream("api.anthropic.com"), start_upstream("gateway.example")
    policy = {
        "gateway": {"url": "https://gateway.example", "kind": kind, **extra},
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team", "paths": ["/v1/messages"]}],
    }
    proxy = start_proxy(policy, upstreams=[provider, gateway], environ={"GATEWAY_KEY": KEY})
    placeholder = proxy.placeholder("team")
    headers = {"x-api-key": placeholder, "anthropic-version": "2023-06-01", "Cookie": "a=b"}
    wanted = [("api.anthropic.com", "/v1/messages"), ("gateway.example", "/v1/messages")]
    for host, sent in dict.fromkeys([*wanted, ("gateway.example", path)]):
        answer = proxy.request("POST", host, sent + "?beta=true", headers=headers, body=b"{}")
        assert answer.status == 200, answer
        received = gateway.requests[-1]
        assert received.target == path + "?beta=true"
        assert received.header(place[0]) == place[1]
        assert received.raw_head.count(KEY.encode()) == 1
        assert received.header("host") == "gateway.example"
        assert received.header("anthropic-version") == "2023-06-01"
        assert received.header("cookie") is None
    assert placeholder.encode() not in bytes(gateway.received)
    assert provider.connections == 0
    decided = proxy.events("request.decided")[-1]
    assert decided["gateway"]["kind"] == kind
    assert decided["swapped"] == [{"secret": "GATEWAY_KEY", "location": f"header:{place[0]}"}]


def test_nothing_that_steers_portkey_reaches_it(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    gateway = start_upstream("gateway.example")
    policy = {
        "gateway": {"url": "https://gateway.example", "kind": "portkey"},
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team"}],
    }
    proxy = start_proxy(policy, upstreams=[gateway], environ={"GATEWAY_KEY": KEY})
    placeholder = proxy.placeholder("team")
    good = {"x-api-key": placeholder}
    attempts = [
        ("/v1/messages", {"x-portkey-custom-host": "https://evil.example"}, b"{}"),
        ("/v1/messages", {"x_portkey_config": "{}"}, b"{}"),
        ("/v1/messages?custom_host=https://evil.example", {}, b"{}"),
        ("/v1/messages", {}, rb'{"custom\u005fhost": "https://evil.example"}'),
        ("/v1/messages", {"Content-Encoding": "gzip"}, b"\x1f\x8b"),
    ]
    for path, headers, body in attempts:
        answer = proxy.request("POST", "api.anthropic.com", path, headers=good | headers, body=body)
        assert (answer.status, answer.reason) == (403, "gateway_override_denied")
    for path in ("/key/generate", "/v1/messages/%2e%2e/admin", "/v1/prompts/x/completions"):
        answer = proxy.request("POST", "gateway.example", path, headers=good, body=b"{}")
        assert answer.reason in ("gateway_route_denied", "path_not_canonical")
    assert bytes(gateway.received) == b""

    label = good | {"x-portkey-trace-id": "mine", "x-portkey-api-key": ""}
    answer = proxy.request("POST", "api.anthropic.com", "/v1/messages", headers=label, body=b"{}")
    assert answer.reason == "ambiguous_credential"
    del label["x-portkey-api-key"]
    answer = proxy.request("POST", "api.anthropic.com", "/v1/messages", headers=label, body=b"{}")
    assert answer.status == 200
    assert gateway.requests[-1].header("x-portkey-trace-id") is None
    assert gateway.requests[-1].header("x-portkey-provider") == "anthropic"

    own = {"x-portkey-api-key": placeholder}
    answer = proxy.request("POST", "gateway.example", "/v1/messages", headers=own, body=b"{}")
    assert answer.status == 200
    assert gateway.requests[-1].header("x-portkey-api-key") == KEY


def test_one_variable_turns_the_gateway_on(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    provider, gateway = start_upstream("api.anthropic.com"), start_upstream("gateway.example")
    policy = {
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team"}],
    }
    plain = {"GATEWAY_KEY": KEY}
    turned_on = plain | {"UNDERSTUDY_LLM_GATEWAY_URL": "https://gateway.example/llm"}
    for environ, upstream, target in (
        (plain, provider, "/v1/messages"),
        (turned_on, gateway, "/llm/v1/messages"),
    ):
        proxy = start_proxy(policy, upstreams=[provider, gateway], environ=environ)
        headers = {"Authorization": f"Bearer {proxy.placeholder('team')}"}
        answer = proxy.request(
            "POST", "api.anthropic.com", "/v1/messages", headers=headers, body=b"{}"
        )
        assert answer.status == 200
        [received] = upstream.requests
        assert received.target == target
        assert received.header("authorization") == f"Bearer {KEY}"


def test_the_operators_headers_replace_the_clients_however_they_are_spelt(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    gateway = start_upstream("gateway.example")
    policy = {
        "gateway": {"url": "https://gateway.example", "headers": {"X-Team": "ours"}},
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team"}],
    }
    proxy = start_proxy(policy, upstreams=[gateway], environ={"GATEWAY_KEY": KEY})
    headers = {
        "x-api-key": proxy.placeholder("team"),
        "X_Team": "theirs",
        "x.team": "theirs",
        "X-TEAM": "theirs",
    }
    answer = proxy.request("POST", "api.anthropic.com", "/v1/messages", headers=headers, body=b"{}")
    assert answer.status == 200
    assert gateway.requests[-1].headers("x-team") == ["ours"]
    assert b"theirs" not in gateway.requests[-1].raw_head


@pytest.mark.parametrize("path", ["/anthropic/v1/messages", "/v1/messages"])
def test_a_denial_written_for_the_gateways_path_holds_there(
    path: str, *, start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    gateway = start_upstream("gateway.example")
    policy = {
        "gateway": {"url": "https://gateway.example/cf", "kind": "cloudflare"},
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team"}],
        "deny": [{"name": "closed", "hosts": ["gateway.example"], "paths": [f"/cf{path}"]}],
    }
    proxy = start_proxy(policy, upstreams=[gateway], environ={"GATEWAY_KEY": KEY})
    headers = {"x-api-key": proxy.placeholder("team")}
    answer = proxy.request(
        "POST", "gateway.example", "/cf/anthropic/v1/messages", headers=headers, body=b"{}"
    )
    denied = path.startswith("/anthropic")
    assert answer.status == (403 if denied else 200)
    assert len(gateway.requests) == (0 if denied else 1)


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/key/generate", {}, "path_not_allowed"),
        ("/v1/files", {}, "path_not_allowed"),
        ("/v1/messages", {"x-api-key": "sk-an-agents-own-key-0123456789"}, "foreign_credential"),
        ("/v1/messages", {"x-litellm-tags": "{p}"}, "placeholder_misplaced"),
    ],
)
def test_report_mode_opens_nothing_at_the_gateway(
    path: str,
    headers: dict[str, str],
    reason: str,
    *,
    start_proxy: Callable[..., Proxy],
    start_upstream: Callable[..., Upstream],
) -> None:
    gateway = start_upstream("gateway.example")
    policy = {
        "mode": "report",
        "gateway": {"url": "https://gateway.example", "kind": "litellm"},
        "connections": {"team": ANTHROPIC},
        "allow": [{"name": "claude", "connection": "team", "paths": ["/v1/messages"]}],
    }
    proxy = start_proxy(policy, upstreams=[gateway], environ={"GATEWAY_KEY": KEY})
    sent = {name: value.format(p=proxy.placeholder("team")) for name, value in headers.items()}
    body = b'{"api_base": "https://evil.example"}'
    answer = proxy.request("POST", "gateway.example", path, headers=sent, body=body)
    assert answer.status == 403
    assert gateway.requests == []
    decided = proxy.events("request.decided")[-1]
    assert (decided["verdict"], decided["reason"]) == ("deny", reason)
