"""What the demo promises, each promise looked up in what both sides of the proxy saw."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.cli.demo.show import Checks
    from understudy.cli.demo.upstream import PretendUpstream

ANTHROPIC, OPENAI, GATEWAY = "api.anthropic.com", "api.openai.com", "litellm.internal"
REFUSED = "paste.example"


@dataclass
class Outcome:
    """Everything that was seen on both sides of the proxy."""

    calls: list[dict[str, Any]]
    agent_environment: dict[str, str]
    upstreams: dict[str, PretendUpstream]
    audit: list[dict[str, Any]]
    audit_lines: list[str]
    placeholders: dict[str, str]
    keys: dict[str, str]
    looked_up: list[str]
    dialled: list[str]


def check(outcome: Outcome, checks: Checks) -> None:
    """Note every promise and whether it was kept."""
    claude, gpt, paste = outcome.calls
    real, held = outcome.keys, outcome.placeholders
    anthropic, gateway = outcome.upstreams[ANTHROPIC], outcome.upstreams[GATEWAY]
    checks.expect(
        "the agent sent placeholders: no real key is in its environment",
        claude["sent"]["headers"]["x-api-key"] == held["claude"]
        and gpt["sent"]["headers"]["Authorization"] == f"Bearer {held['gpt']}"
        and not _any_in(real.values(), json.dumps(outcome.agent_environment)),
    )
    checks.expect(
        f"{ANTHROPIC} saw the real key in x-api-key, once, and no placeholder",
        _saw_only(anthropic, "/v1/messages", "x-api-key", real["ANTHROPIC_API_KEY"], outcome),
    )
    checks.expect(
        f"{GATEWAY} saw its own key in authorization, and no placeholder",
        _saw_only(
            gateway,
            "/v1/chat/completions",
            "authorization",
            f"Bearer {real['LITELLM_KEY']}",
            outcome,
        ),
    )
    checks.expect(
        "the bodies arrived as they were sent, and the answers came back",
        [claude["sent"]["body"], gpt["sent"]["body"]]
        == [each.body for each in (*anthropic.requests, *gateway.requests)]
        and (claude["status"], gpt["status"]) == (200, 200)
        and [json.loads(each["got"]) for each in (claude, gpt)]
        == [{"from": host, "text": "PONG"} for host in (ANTHROPIC, GATEWAY)],
    )
    checks.expect(f"{OPENAI} itself saw no connection", outcome.upstreams[OPENAI].connections == 0)
    checks.expect(
        f"{REFUSED} was refused with its reason: host_not_allowed",
        paste["status"] is None
        and "403" in paste["got"]
        and 'details="host_not_allowed"' in (paste["proxy_status"] or ""),
    )
    checks.expect(
        "no name was looked up, and no address but loopback was connected to",
        not outcome.looked_up and set(outcome.dialled) == {"127.0.0.1"},
    )
    _check_audit(outcome, checks)


def _check_audit(outcome: Outcome, checks: Checks) -> None:
    verdicts = [event for event in outcome.audit if "verdict" in event]
    checks.expect(
        "the audit has one verdict for each call, and what was swapped where",
        [(each["verdict"], each["reason"], each["http"]["host"]) for each in verdicts]
        == [
            ("allow", "allowed", ANTHROPIC),
            ("allow", "allowed", OPENAI),
            ("deny", "host_not_allowed", REFUSED),
        ]
        and [each.get("swapped") for each in verdicts]
        == [
            [{"secret": "ANTHROPIC_API_KEY", "location": "header:x-api-key"}],
            [{"secret": "LITELLM_KEY", "location": "header:authorization"}],
            None,
        ]
        and verdicts[1]["gateway"]["host"] == GATEWAY,
    )
    finished = [event for event in outcome.audit if event["event"] == "request.finished"]
    checks.expect(
        "no key and no placeholder is in the audit or in what the agent got",
        [each["status"] for each in finished] == [200, 200]
        and not _any_in(
            (*outcome.keys.values(), *outcome.placeholders.values()),
            "".join(outcome.audit_lines) + "".join(str(call["got"]) for call in outcome.calls),
        ),
    )


def _saw_only(
    upstream: PretendUpstream, path: str, header: str, value: str, outcome: Outcome
) -> bool:
    if len(upstream.requests) != 1:
        return False
    seen = upstream.requests[0]
    return (
        seen.path == path
        and seen.header(header) == [value]
        and seen.header("host") == [upstream.host]
        and not _any_in(outcome.placeholders.values(), str(seen))
    )


def _any_in(needles: Iterable[str], text: str) -> bool:
    return any(needle in text for needle in needles)
