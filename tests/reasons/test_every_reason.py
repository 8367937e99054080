"""Every reason code is produced from the outside; a table that must be complete."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.client import REFUSED, Answer, client_hello
from tests.support.scene import Scene
from tests.support.upstream import Upstream

from understudy.reasons import Reason

SECRET = "sk-real-for-reasons-0123456789"
TOKEN = "a-callers-token-of-enough-characters"
GOOD: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "KEY"},
        }
    },
    "allow": [
        {"name": "good", "connection": "good", "paths": ["/v1/**"]},
        {"name": "other", "hosts": ["other.example"]},
    ],
    "deny": [{"name": "no-deletes", "hosts": ["good.example"], "methods": ["DELETE"]}],
}
GET = "GET /v1/x HTTP/1.1\nHost: good.example"


@dataclass
class Stand:
    """What a scenario starts its proxy with."""

    start_upstream: Callable[..., Upstream]
    start_scene: Callable[..., Scene]
    folder: Path

    def start(self, *, handler: Any = None, hosts: bool = True, **changes: Any) -> Scene:
        """A proxy for good.example and other.example; upper-case changes are its variables."""
        options = {k: changes.pop(k) for k in ("arguments", "faults", "names") if k in changes}
        upstreams = [
            self.start_upstream("good.example", handler=handler),
            self.start_upstream("other.example"),
        ]
        return self.start_scene(
            GOOD | changes,
            upstreams if hosts else [],
            {SECRET: ["good.example"]},
            environ={"KEY": SECRET},
            **options,
        )


def in_tunnel(scene: Scene, head: str | bytes, body: bytes = b"") -> Answer:
    with scene.tunnel("good.example") as wire:
        return wire.request(head, body)


def connect(scene: Scene, authority: str) -> Answer:
    with scene.wire() as wire:
        return wire.connect(authority)


type Outcome = tuple[Scene, Answer | None]


def allowed(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, f"{GET}\nX-Api-Key: {scene.placeholder('good')}")


def host_not_allowed(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, connect(scene, "evil.example:443")


def port_not_allowed(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, connect(scene, "good.example:22")


def method_not_allowed(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "PURGE /v1/x HTTP/1.1\nHost: good.example")


def path_not_allowed(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "GET /v2/x HTTP/1.1\nHost: good.example")


def denied_by_rule(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "DELETE /v1/x HTTP/1.1\nHost: good.example")


def tls_required(stand: Stand) -> Outcome:
    scene = stand.start()
    with scene.wire() as wire:
        wire.connect("good.example:443")
        return scene, wire.request(GET)


def host_mismatch(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "GET /v1/x HTTP/1.1\nHost: other.example")


def sni_mismatch(stand: Stand) -> Outcome:
    scene = stand.start()
    with scene.wire() as wire:
        wire.connect("good.example:443")
        with pytest.raises(REFUSED):
            wire.start_tls("evil.example")
    return scene, None


def nested_tls(stand: Stand) -> Outcome:
    scene = stand.start()
    with scene.tunnel("good.example") as wire:
        assert wire.send(client_hello("good.example")).read_until_closed() == b""
    return scene, None


def not_http(stand: Stand) -> Outcome:
    scene = stand.start()
    with scene.tunnel("good.example") as wire:
        assert wire.send(b"SSH-2.0-OpenSSH\r\n").read_until_closed() == b""
    return scene, None


def bad_target(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "GET https://evil.example/ HTTP/1.1\nHost: good.example")


def bad_header(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, f"{GET}\nHost: good.example")


def bad_method(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "get /v1/x HTTP/1.1\nHost: good.example")


def path_not_canonical(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, "GET /v1/../x HTTP/1.1\nHost: good.example")


def header_too_large(stand: Stand) -> Outcome:
    scene = stand.start(limits={"max_header_bytes": 1024})
    return scene, in_tunnel(scene, f"{GET}\nX: {'y' * 2000}")


def body_too_large(stand: Stand) -> Outcome:
    scene = stand.start(limits={"max_request_body_bytes": 10})
    head = "POST /v1/x HTTP/1.1\nHost: good.example\nTransfer-Encoding: chunked"
    chunked = in_tunnel(scene, head, b"14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n")
    assert chunked.reason == "body_too_large"
    assert scene.seen("good.example") == []
    declared = "POST /v1/x HTTP/1.1\nHost: good.example\nContent-Length: 11"
    return scene, in_tunnel(scene, declared, b"x" * 11)


def address_denied(stand: Stand) -> Outcome:
    scene = stand.start(hosts=False, names={"good.example": [["169.254.169.254"]]})
    return scene, in_tunnel(scene, GET)


def placeholder_wrong_host(stand: Stand) -> Outcome:
    scene = stand.start()
    headers = [("X-Api-Key", scene.placeholder("good"))]
    return scene, scene.request("other.example", headers=headers)


def placeholder_misplaced(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, f"{GET}\nX-Debug: {scene.placeholder('good')}")


def foreign_credential(stand: Stand) -> Outcome:
    scene = stand.start()
    return scene, in_tunnel(scene, f"{GET}\nX-Api-Key: another-key")


def ambiguous_credential(stand: Stand) -> Outcome:
    scene = stand.start()
    key = scene.placeholder("good")
    return scene, in_tunnel(scene, f"{GET}\nX-Api-Key: {key}\nAuthorization: Bearer another")


def secret_unavailable(stand: Stand) -> Outcome:
    connections = {"good": GOOD["connections"]["good"] | {"secret": {"env": "NOT_SET"}}}
    scene = stand.start(connections=connections)
    return scene, in_tunnel(scene, f"{GET}\nX-Api-Key: {scene.placeholder('good')}")


def policy_missing(stand: Stand) -> Outcome:
    scene = stand.start_scene("nonsense", [], {})
    return scene, connect(scene, "good.example:443")


def audit_unavailable(stand: Stand) -> Outcome:
    """The audit's folder vanishes and the file is renamed away: it cannot be opened again."""
    resource = pytest.importorskip("resource")
    scene = stand.start()
    scene.proxy.wait_for_events("proxy.ready")
    pid, size = scene.proxy.process.pid, scene.proxy.audit_file.stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    answer = in_tunnel(scene, GET)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    return scene, answer


def internal_error(stand: Stand) -> Outcome:
    scene = stand.start(faults=True)
    with scene.proxy.sabotage("Decision.requestheaders"):
        return scene, in_tunnel(scene, GET)


GATEWAY: dict[str, Any] = {
    "gateway": {"url": "https://other.example", "kind": "litellm", "providers": ["openai"]},
    "connections": {"gpt": {"provider": "openai", "secret": {"env": "KEY"}}},
    "allow": [{"name": "gpt", "connection": "gpt"}],
    "deny": [{"name": "none", "hosts": ["none.example"]}],
}


def gateway_route_denied(stand: Stand) -> Outcome:
    scene = stand.start(**GATEWAY)
    headers = [("Authorization", f"Bearer {scene.placeholder('gpt')}")]
    return scene, scene.request("api.openai.com", "/key/generate", method="POST", headers=headers)


def gateway_override_denied(stand: Stand) -> Outcome:
    scene = stand.start(**GATEWAY)
    headers = [
        ("Authorization", f"Bearer {scene.placeholder('gpt')}"),
        ("x-litellm-api-base", "https://evil.example"),
    ]
    return scene, scene.request("api.openai.com", "/v1/models", headers=headers)


def proxy_auth_required(stand: Stand) -> Outcome:
    file = stand.folder / "token"
    file.write_text(TOKEN)
    scene = stand.start(arguments=["--proxy-token-file", str(file)])
    answer = connect(scene, "good.example:443")
    assert "Basic" in (answer.header("proxy-authenticate") or "")
    return scene, answer


async def _close(_: object, writer: Any) -> None:
    writer.close()


async def _say_nothing(_: object, writer: Any) -> None:
    await writer.wait_closed()


def upstream_failed(stand: Stand) -> Outcome:
    scene = stand.start(handler=_close)
    return scene, in_tunnel(scene, GET)


def upstream_timeout(stand: Stand) -> Outcome:
    scene = stand.start(handler=_say_nothing, limits={"first_byte_timeout_seconds": 0.2})
    return scene, in_tunnel(scene, GET)


def client_closed(stand: Stand) -> Outcome:
    scene = stand.start()
    with scene.tunnel("good.example") as wire:
        wire.send(b"GET /v1/")
    return scene, None


def timeout(stand: Stand) -> Outcome:
    scene = stand.start(limits={"head_timeout_seconds": 0.2})
    with scene.tunnel("good.example") as wire:
        assert wire.send(b"GET /v1/").read_until_closed() == b""
    return scene, None


def too_many_connections(stand: Stand) -> Outcome:
    scene = stand.start(limits={"max_connections": 1})
    scene.wire().connect("good.example:443")
    assert scene.wire().read_until_closed() == b""
    return scene, None


SCENARIOS: dict[Reason, Callable[[Stand], Outcome]] = {
    Reason(scenario.__name__): scenario
    for scenario in (
        allowed, host_not_allowed, port_not_allowed, method_not_allowed, path_not_allowed,
        denied_by_rule, tls_required, host_mismatch, sni_mismatch, nested_tls, not_http, bad_target,
        bad_header, bad_method, path_not_canonical, header_too_large, body_too_large,
        address_denied, placeholder_wrong_host, placeholder_misplaced, foreign_credential,
        ambiguous_credential, secret_unavailable, policy_missing, audit_unavailable,
        internal_error, gateway_route_denied, gateway_override_denied, proxy_auth_required,
        upstream_failed, upstream_timeout, client_closed, timeout, too_many_connections,
    )
}  # fmt: skip
NO_LINE = {Reason.AUDIT_UNAVAILABLE}
"""The one that the audit cannot tell of: its metric does."""


def test_every_reason_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(Reason)


@pytest.mark.parametrize("reason", list(SCENARIOS), ids=str)
def test_reason_is_produced_from_the_outside(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    tmp_path: Path,
    reason: Reason,
) -> None:
    scene, answer = SCENARIOS[reason](Stand(start_upstream, start_scene, tmp_path))
    if reason is Reason.ALLOWED:
        assert answer is not None
        assert answer.status == 200
    elif reason.status is None:
        assert answer is None
    else:
        assert answer is not None
        assert (answer.status, answer.reason) == (reason.status, str(reason))
    scene.settle()
    if reason not in NO_LINE:
        assert str(reason) in {line.get("reason") for line in scene.events()}
    if reason not in {Reason.UPSTREAM_FAILED, Reason.UPSTREAM_TIMEOUT}:
        counted = sum(
            value
            for name, value in scene.proxy.metrics().items()
            if name.startswith("understudy_requests_total") and f'reason="{reason}"' in name
        )
        assert counted >= 1


@pytest.mark.parametrize("how", ["basic", "bearer"])
def test_a_known_caller_is_served(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    tmp_path: Path,
    how: str,
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    stand = Stand(start_upstream, start_scene, tmp_path)
    scene = stand.start(arguments=["--proxy-token-file", str(file)])
    value = f"Bearer {TOKEN}"
    if how == "basic":
        value = "Basic " + base64.b64encode(f"agent:{TOKEN}".encode()).decode()
    with scene.wire() as wire:
        wire.send(
            b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n"
            b"Proxy-Authorization: %s\r\n\r\n" % value.encode()
        )
        assert wire.read(connect=True).status == 200
        wire.start_tls("good.example")
        assert wire.request(GET).status == 200
    (received,) = scene.expect_allowed("good.example")
    assert TOKEN.encode() not in received.raw_head


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Digest {TOKEN}"])
def test_an_unknown_caller_is_not_served(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    tmp_path: Path,
    value: str,
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    stand = Stand(start_upstream, start_scene, tmp_path)
    scene = stand.start(arguments=["--proxy-token-file", str(file)])
    with scene.wire() as wire:
        wire.send(
            b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n"
            b"Proxy-Authorization: %s\r\n\r\n" % value.encode()
        )
        answer = wire.read(connect=True)
    scene.expect_denied(answer, "proxy_auth_required", event="tunnel.denied")
