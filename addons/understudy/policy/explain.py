"""What the policy makes of a request, and why, without sending it. Pure.

Asks the same functions as the proxy does, in the same order, so that the answer is the proxy's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from understudy.credentials.judge import Head, inspect, judge
from understudy.gateways.apply import route
from understudy.policy.decide import (
    KNOWN_METHODS,
    admits_method,
    admits_path,
    has_port,
    holds,
)
from understudy.policy.direct import decide_request, provider_shaped
from understudy.policy.hosts import HostError, parse_authority
from understudy.policy.model import Target, Verdict
from understudy.policy.paths import PathError, readings
from understudy.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from understudy.credentials.carriers import Carrier
    from understudy.credentials.placeholders import Placeholders
    from understudy.policy.model import Policy, Rule

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?", re.IGNORECASE)
_MATCHES = 5
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule, and whether it speaks about the request."""

    kind: Literal["deny", "allow"]
    name: str
    matches: bool
    why: str
    """For example ``methods GET, HEAD do not include POST``."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The proxy's answer to a request, and how it came to it."""

    target: Target | None
    """None where the URL cannot be read."""
    allow: bool
    reason: Reason
    """Also in report mode the denial that enforce mode would give."""
    rule: str | None = None
    connection: str | None = None
    carriers: tuple[str, ...] = ()
    """Where the request may carry the placeholder; the one where it does, if it does."""
    action: Literal["none", "swap", "inject", "strip"] = "none"
    """What happens to the credential."""
    websocket: bool = False
    """Whether the request may become a WebSocket, where the engine offers that."""
    destination: str | None = None
    """The URL that the request is sent to, without its query; the gateway's where it goes there."""
    considered: tuple[Considered, ...] = ()


def explain(
    policy: Policy,
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    placeholders: Placeholders,
) -> Explanation:
    """Say what the proxy would do with the request; nothing is resolved, dialled or sent."""
    match = _URL.fullmatch(url)
    if match is None:
        return Explanation(None, allow=False, reason=Reason.BAD_TARGET)
    scheme: Literal["https", "http"] = "https" if match[1].lower() == "https" else "http"
    try:
        authority = parse_authority(match[2].encode(), _DEFAULT_PORTS[scheme])
    except HostError:
        return Explanation(None, allow=False, reason=Reason.BAD_TARGET)
    path = match[3] or "/"
    target = Target(method, scheme, authority.host, authority.port, path)
    fields = tuple((name.encode(), value.encode()) for name, value in headers)
    head = Head(fields, (path + (match[4] or "")).encode())
    presented = inspect(head, placeholders, policy.connections)
    verdict = decide_request(policy, target, presented.connection)
    found = Explanation(
        target,
        allow=verdict.allow,
        reason=verdict.reason,
        rule=verdict.rule,
        connection=verdict.connection.name if verdict.connection else None,
        considered=_considered(
            policy,
            provider_shaped(
                policy,
                target,
                verdict.connection.name if verdict.connection else presented.connection,
            ),
        ),
    )
    if not verdict.allow:
        return found
    found = replace(
        found,
        destination=_url(scheme, authority.host, authority.port, path),
        websocket=verdict.websocket,
    )
    plan = judge(presented, verdict=verdict, bound=policy.bound_to(target.host, target.port))
    if isinstance(plan, Reason):
        reports = policy.mode == "report" and plan.reportable
        return replace(
            found,
            allow=reports,
            reason=plan,
            connection=None,
            websocket=False,
            destination=found.destination if reports else None,
        )
    carriers: tuple[Carrier, ...] = (plan.carrier,) if plan.carrier else ()
    if not carriers and verdict.connection is not None and verdict.connection.secret is not None:
        carriers = verdict.connection.carriers
    found = replace(
        found, action=plan.action, carriers=tuple(carrier.label for carrier in carriers)
    )
    return _routed(policy, target, head, verdict, found)


def _routed(
    policy: Policy,
    target: Target,
    head: Head,
    verdict: Verdict,
    found: Explanation,
) -> Explanation:
    connection, gateway = verdict.connection, policy.gateway
    if (
        gateway is None
        or connection is None
        or connection.provider is None
        or not connection.via_gateway
    ):
        return found
    routed = route(
        gateway,
        connection.provider,
        target.method,
        head.target,
        head.headers,
        host_is_gateway=(target.host, target.port) == (gateway.host, gateway.port),
    )
    if isinstance(routed, Reason):
        return replace(found, allow=False, reason=routed, destination=None)
    path = routed.target.partition(b"?")[0].decode("ascii")
    return replace(found, destination=_url(routed.scheme, routed.host, routed.port, path))


def _url(scheme: str, host: str, port: int, path: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}{path}"


def _considered(policy: Policy, target: Target) -> tuple[Considered, ...]:
    """Go through all rules, those of one name together, as :func:`decide` reads them."""
    try:
        paths = readings(target.path)
    except PathError:
        return ()
    found: dict[tuple[Literal["deny", "allow"], str], tuple[int, str]] = {}
    for rule in policy.deny:
        found["deny", rule.name] = _compare(rule, target, paths, denies=True)
    for rule in policy.allow:
        key: tuple[Literal["deny", "allow"], str] = ("allow", rule.name)
        compared = _compare(rule, target, paths, denies=False)
        if key not in found or compared[0] > found[key][0]:
            found[key] = compared
    return tuple(
        Considered(kind, name, depth == _MATCHES, why)
        for (kind, name), (depth, why) in found.items()
    )


def _compare(rule: Rule, target: Target, paths: Sequence[str], *, denies: bool) -> tuple[int, str]:
    """Return how far the rule goes along with the target, and what stops it."""
    if rule.hosts is not None and not any(each.matches(target.host) for each in rule.hosts):
        return 0, f"hosts {_list(each.text for each in rule.hosts)} do not include {target.host}"
    if not has_port(rule, target.port):
        return 1, f"ports {_list(rule.ports or ())} do not include {target.port}"
    if target.scheme not in rule.schemes:
        return 2, f"schemes {_list(rule.schemes)} do not include {target.scheme}"
    any_method = denies and rule.methods is None
    if not any_method and not admits_method(rule, target.method):
        return 3, f"methods {_list(rule.methods or KNOWN_METHODS)} do not include {target.method}"
    if denies:
        if not holds(rule, target.method, paths):
            return 4, f"paths {_paths(rule)} match no reading of {target.path}"
    elif not admits_path(rule, paths):
        failing = next(each for each in paths if not admits_path(rule, (each,)))
        as_read = "" if failing == target.path else f", which a server may read as {failing}"
        return 4, f"paths {_paths(rule)} do not include {target.path}{as_read}"
    for denial in rule.denied_by:
        if holds(denial, target.method, paths):
            return 4, f"the deny rule {denial.name} holds at the gateway too"
    return _MATCHES, "matches"


def _list(items: Iterable[object]) -> str:
    return ", ".join(sorted(str(item) for item in items))


def _paths(rule: Rule) -> str:
    return _list(pattern.text for pattern in rule.paths or ())
