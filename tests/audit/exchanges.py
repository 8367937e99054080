"""Makes exchanges as the stages leave them, for tests of what the audit says."""

from __future__ import annotations

from typing import Any

from understudy.gateways.apply import Routed
from understudy.gateways.preset import gateway_presets
from understudy.policy.hosts import HostPattern
from understudy.policy.model import (
    Connection,
    Gateway,
    Limits,
    Policy,
    SecretReference,
    Target,
    Upstream,
    Verdict,
)
from understudy.reasons import Reason
from understudy.stages.exchange import Exchange, Session
from understudy.wire.head import RequestHead

CONNECTION = Connection(
    name="anthropic-team",
    provider="anthropic",
    hosts=(HostPattern.parse("api.anthropic.com"),),
    carriers=(),
    secret=SecretReference("env", "ANTHROPIC_API_KEY"),
    via_gateway=True,
)
GATEWAY = Gateway(
    preset=gateway_presets()["litellm"],
    scheme="https",
    host="litellm.internal",
    port=443,
    path_prefix="",
    providers=frozenset({"anthropic"}),
)
ROUTED = Routed(
    scheme="https",
    host="litellm.internal",
    port=443,
    target=b"/v1/messages?beta=true",
    headers_to_set=(),
    headers_to_drop=frozenset(),
    refuse_body_fields=frozenset(),
    body_is_form=False,
    carrier=None,
)


def make_policy(**changes: Any) -> Policy:
    return Policy(
        **{
            "mode": "enforce",
            "connections": {CONNECTION.name: CONNECTION},
            "allow": (),
            "deny": (),
            "gateway": GATEWAY,
            "upstream": Upstream(),
            "limits": Limits(),
            "digest": "sha256:" + "a" * 64,
        }
        | changes
    )


def make_head(**changes: Any) -> RequestHead:
    return RequestHead(
        **{
            "method": "POST",
            "form": "origin",
            "target": b"/v1/messages?beta=true",
            "authority": b"",
            "path": b"/v1/messages?beta=true",
            "host": b"api.anthropic.com",
            "has_body": True,
            "content_length": 2,
            "refusal": None,
        }
        | changes
    )


def make_exchange(**changes: Any) -> Exchange:
    """An allowed request through the gateway, unless changed."""
    fields: dict[str, Any] = {
        "session": Session(address="127.0.0.1"),
        "policy": make_policy(),
        "head": make_head(),
        "request_id": "01J00000000000000000000000",
        "started": 10.0,
        "decided_at": 10.0011,
        "target": Target("POST", "https", "api.anthropic.com", 443, "/v1/messages"),
        "verdict": Verdict(allow=True, reason=Reason.ALLOWED, rule="claude", connection=CONNECTION),
        "routed": ROUTED,
        "swapped": [("ANTHROPIC_API_KEY", "header:x-api-key")],
        "bound": (CONNECTION,),
    } | changes
    return Exchange(**fields)
