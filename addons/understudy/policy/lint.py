"""What a policy says without effect: surely not what its author meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from understudy.policy.decide import KNOWN_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.policy.model import Policy, Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing without effect."""

    section: Literal["connections", "rules"]
    name: str
    message: str


def lint(policy: Policy) -> Iterator[Finding]:
    """Find connections that no rule uses, rules that can never match and WebSockets without use.

    A rule is compared with one other rule at a time, so that several which hide it only together
    go unnoticed; what is reported is certain.
    """
    used = {rule.connection.name for rule in policy.allow if rule.connection}
    for name in policy.connections:
        if name not in used:
            yield Finding("connections", name, "no allow rule uses this connection")
    own = [
        replace(rule, methods=rule.methods or KNOWN_METHODS)
        for rule in policy.allow
        if not rule.at_gateway
    ]
    for name in dict.fromkeys(rule.name for rule in own):
        parts = [rule for rule in own if rule.name == name]
        hidden_by = [_hidden_by(part, own, policy.deny) for part in parts]
        if all(hidden_by):
            yield Finding("rules", name, f"this rule can never match: {hidden_by[0]}")
        if any(part.websocket and _via_gateway(part) for part in parts):
            message = "websocket has no effect: no WebSocket is passed to the gateway"
            yield Finding("rules", name, message)
    for position, rule in enumerate(policy.deny):
        for earlier in policy.deny[:position]:
            if _covers(earlier, rule):
                message = f"the deny rule {earlier.name!r} before it denies all that it denies"
                yield Finding("rules", rule.name, message)
                break


def _via_gateway(rule: Rule) -> bool:
    return rule.connection is not None and rule.connection.via_gateway


def _hidden_by(rule: Rule, own: Iterable[Rule], deny: Iterable[Rule]) -> str | None:
    for denial in deny:
        if _covers(denial, rule):
            return f"the deny rule {denial.name!r} denies all that it allows"
    for earlier in own:
        if earlier is rule:
            return None
        if earlier.name != rule.name and _answers_for(earlier, rule) and _covers(earlier, rule):
            return f"the rule {earlier.name!r} before it allows all that it allows"
    return None


def _answers_for(earlier: Rule, rule: Rule) -> bool:
    """Whether ``earlier`` wins where both match: a rule's own placeholder would select the rule."""
    if rule.connection is None or rule.connection.secret is None:
        return True
    return earlier.connection is rule.connection


def _covers(wide: Rule, narrow: Rule) -> bool:
    return (
        _covers_hosts(wide, narrow)
        and (wide.ports is None or (narrow.ports is not None and narrow.ports <= wide.ports))
        and narrow.schemes <= wide.schemes
        and _covers_methods(wide, narrow)
        and _covers_paths(wide, narrow)
    )


def _covers_hosts(wide: Rule, narrow: Rule) -> bool:
    if wide.hosts is None or narrow.hosts is None:
        return wide.hosts is None
    hosts = wide.hosts
    return all(any(pattern.covers(other) for pattern in hosts) for other in narrow.hosts)


def _covers_methods(wide: Rule, narrow: Rule) -> bool:
    if wide.methods is None or narrow.methods is None:
        return wide.methods is None
    return narrow.methods <= wide.methods


def _covers_paths(wide: Rule, narrow: Rule) -> bool:
    if wide.paths is None or narrow.paths is None:
        return wide.paths is None
    paths = wide.paths
    return all(any(pattern.covers(other) for pattern in paths) for other in narrow.paths)
