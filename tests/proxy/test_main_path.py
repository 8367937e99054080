"""The main path, front to back: CONNECT, decision, swap, upstream, answer, audit, metrics."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

SECRET = "sk-ant-real-0123456789abcdefghijklmnop"
POLICY = {
    "connections": {
        "claude-team": {"provider": "anthropic", "secret": {"env": "ANTHROPIC_API_KEY"}}
    },
    "allow": [{"name": "claude", "connection": "claude-team"}],
}


def test_a_placeholder_becomes_the_secret_on_its_way_up_and_the_audit_says_so(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    anthropic = start_upstream("api.anthropic.com")
    proxy = start_proxy(POLICY, upstreams=[anthropic], environ={"ANTHROPIC_API_KEY": SECRET})
    placeholder = proxy.placeholder("claude-team")

    answer = proxy.request(
        "POST",
        "api.anthropic.com",
        "/v1/messages?beta=true",
        headers={"x-api-key": placeholder, "Content-Type": "application/json"},
        body=b'{"model": "claude"}',
    )

    assert answer.status == 200
    assert answer.body == b"hello"
    [received] = anthropic.requests
    assert received.header("x-api-key") == SECRET
    assert received.target == "/v1/messages?beta=true"
    assert received.body == b'{"model": "claude"}'
    assert placeholder.encode() not in bytes(anthropic.received)
    [decided] = proxy.events("request.decided")
    assert decided["verdict"] == "allow"
    assert decided["rule"] == "claude"
    assert decided["http"]["path"] == "/v1/messages"
    assert decided["swapped"] == [{"secret": "ANTHROPIC_API_KEY", "location": "header:x-api-key"}]
    [finished] = proxy.wait_for_events("request.finished")
    assert finished["request_id"] == decided["request_id"]
    assert (finished["status"], finished["bytes_sent"], finished["bytes_received"]) == (200, 19, 5)
    assert SECRET.encode() not in proxy.everything_written()
    metrics = proxy.metrics()
    assert metrics['understudy_requests_total{reason="allowed",rule="claude",verdict="allow"}'] == 1
    assert (
        metrics['understudy_swaps_total{carrier="header:x-api-key",connection="claude-team"}'] == 1
    )


def test_a_host_outside_the_policy_is_refused_before_any_look_up(
    start_proxy: Callable[..., Proxy],
) -> None:
    proxy = start_proxy(POLICY, environ={"ANTHROPIC_API_KEY": SECRET})
    with proxy.wire() as wire:
        answer = wire.connect("data.evil.example:443")
    assert answer.status == 403
    assert answer.reason == "host_not_allowed"
    assert answer.header("proxy-status") == (
        'understudy; error=http_request_denied; details="host_not_allowed"'
    )
    assert proxy.spied("socket.getaddrinfo") == []
    assert proxy.spied("socket.connect") == []
    [denied] = proxy.verdicts()
    assert (denied["event"], denied["reason"]) == ("tunnel.denied", "host_not_allowed")
    assert denied["http"] == {"method": "CONNECT", "host": "data.evil.example", "port": 443}
