"""The judgement: what the policy says about a request or a tunnel. Pure; asked per request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.policy.model import Verdict
from understudy.policy.paths import PathError, readings
from understudy.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.policy.model import Policy, Rule, Target

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""What a rule without ``methods`` allows; any other method is allowed only by its name."""
NEVER_METHODS = frozenset({"TRACE", "CONNECT"})
"""What no rule can allow: TRACE echoes credentials, CONNECT is the proxy's own."""


def decide(policy: Policy, target: Target, presented: str | None = None) -> Verdict:
    """Say whether ``target`` may be requested, why, and by which rule.

    ``presented`` names the connection whose placeholder the request carries: of the rules that
    match, the first with that connection wins, otherwise the first. For a request sent straight to
    the gateway, ``target.path`` is the provider's path. In report mode a verdict that allows may
    carry a denial as its reason; it then has no connection, so that nothing is swapped.
    """
    rules = policy.index.at(target.host)
    if not rules.allow:
        return _deny(policy, Reason.HOST_NOT_ALLOWED, target)
    at_port = [rule for rule in rules.allow if has_port(rule, target.port)]
    if not at_port:
        # http://host/ where https://host/ is allowed: what is missing is TLS, not another port.
        only_plain = (target.scheme, target.port) == ("http", 80)
        lacks_tls = only_plain and any(has_port(rule, 443) for rule in rules.allow)
        reason = Reason.TLS_REQUIRED if lacks_tls else Reason.PORT_NOT_ALLOWED
        return _deny(policy, reason, target)
    candidates = [rule for rule in at_port if target.scheme in rule.schemes]
    if not candidates:
        wrong_port = target.scheme == "https"
        reason = Reason.PORT_NOT_ALLOWED if wrong_port else Reason.TLS_REQUIRED
        return _deny(policy, reason, target)
    try:
        paths = readings(target.path)
    except PathError:
        return Verdict(allow=False, reason=Reason.PATH_NOT_CANONICAL)
    for rule in rules.deny:
        if denies(rule, target, paths):
            return _deny(policy, Reason.DENIED_BY_RULE, target, rule)
    candidates = [rule for rule in candidates if admits_method(rule, target.method)]
    if not candidates:
        return _deny(policy, Reason.METHOD_NOT_ALLOWED, target)
    candidates = [rule for rule in candidates if admits_path(rule, paths)]
    if not candidates:
        return _deny(policy, Reason.PATH_NOT_ALLOWED, target)
    chosen = _choose(candidates, presented)
    for rule in chosen.denied_by:
        if holds(rule, target.method, paths):
            return _deny(policy, Reason.DENIED_BY_RULE, target, rule)
    return Verdict(
        allow=True,
        reason=Reason.ALLOWED,
        rule=chosen.name,
        connection=chosen.connection,
        websocket=_may_open_websocket(chosen, target),
    )


def decide_tunnel(policy: Policy, host: str, port: int) -> Verdict:
    """Say whether any request at all may go to the canonical ``host`` and ``port``.

    Each request inside the tunnel is decided again by :func:`decide`.
    """
    rules = policy.index.at(host)
    verdict = Verdict(allow=True, reason=Reason.ALLOWED)
    if not rules.allow:
        verdict = Verdict(allow=False, reason=Reason.HOST_NOT_ALLOWED)
    elif not any(has_port(rule, port) for rule in rules.allow):
        verdict = Verdict(allow=False, reason=Reason.PORT_NOT_ALLOWED)
    else:
        for rule in rules.deny:
            if has_port(rule, port) and denies_everything(rule):
                verdict = Verdict(allow=False, reason=Reason.DENIED_BY_RULE, rule=rule.name)
                break
    if policy.mode == "report" and not verdict.allow:
        return Verdict(allow=True, reason=verdict.reason, rule=verdict.rule)
    return verdict


def has_port(rule: Rule, port: int) -> bool:
    """Whether the rule speaks about ``port``."""
    return rule.ports is None or port in rule.ports


def admits_method(rule: Rule, method: str) -> bool:
    """Whether an allow rule admits the method, which is compared exactly."""
    return method in (KNOWN_METHODS if rule.methods is None else rule.methods)


def admits_path(rule: Rule, paths: Sequence[str]) -> bool:
    """Whether every reading of the path passes one of an allow rule's patterns."""
    patterns = rule.paths
    return patterns is None or all(
        any(pattern.matches(reading) for pattern in patterns) for reading in paths
    )


def denies(rule: Rule, target: Target, paths: Sequence[str]) -> bool:
    """Whether a deny rule for the target's host holds against the rest of the target."""
    return (
        has_port(rule, target.port)
        and target.scheme in rule.schemes
        and holds(rule, target.method, paths)
    )


def holds(rule: Rule, method: str, paths: Sequence[str]) -> bool:
    """Whether a deny rule's method and path filters hold: any reading of the path is enough."""
    return (rule.methods is None or method in rule.methods) and (
        rule.paths is None
        or any(pattern.matches(reading) for pattern in rule.paths for reading in paths)
    )


def denies_everything(rule: Rule) -> bool:
    """Whether a deny rule leaves nothing of the hosts and ports that it names."""
    return rule.methods is None and rule.paths is None and {"https", "http"} <= rule.schemes


def _may_open_websocket(rule: Rule, target: Target) -> bool:
    """Whether a request that the rule allows may become a WebSocket; never at a gateway.

    A gateway's control fields can stand in any message, where nothing looks for them.
    """
    via_gateway = rule.connection is not None and rule.connection.via_gateway
    return rule.websocket and target.method == "GET" and not via_gateway


def _choose(matching: Sequence[Rule], presented: str | None) -> Rule:
    if presented is not None:
        for rule in matching:
            if rule.connection is not None and rule.connection.name == presented:
                return rule
    return matching[0]


def _deny(policy: Policy, reason: Reason, target: Target, rule: Rule | None = None) -> Verdict:
    name = None if rule is None else rule.name
    # Routes and fields of the gateway are looked at for an allowed connection only.
    at_gateway = policy.is_gateway(target.host, target.port)
    if policy.mode == "enforce" or not reason.reportable or at_gateway:
        return Verdict(allow=False, reason=reason, rule=name)
    # Report mode lets pass what the policy's author has not allowed yet, not what is malformed.
    if target.method in NEVER_METHODS:
        return Verdict(allow=False, reason=Reason.BAD_METHOD)
    try:
        readings(target.path)
    except PathError:
        return Verdict(allow=False, reason=Reason.PATH_NOT_CANONICAL)
    return Verdict(allow=True, reason=reason, rule=name)
