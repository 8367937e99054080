"""What the admin server tells about the proxy: names, ages and errors, never a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from understudy.policy.model import Policy, Rule


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """One rule, as reviewers know it."""

    name: str
    effect: str
    """``allow`` or ``deny``."""
    connection: str | None
    hosts: tuple[str, ...] | None
    """None: every host."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection and the state of its secret."""

    name: str
    provider: str | None
    hosts: tuple[str, ...]
    via_gateway: bool
    source: str | None
    """Kind of the secret's source; None without a secret."""
    secret: str | None
    """The secret's name."""
    secret_age_seconds: float | None
    """None before the secret is first fetched."""
    last_error: str | None


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """The policy in force."""

    digest: str
    mode: str
    age_seconds: float
    rules: tuple[RuleStatus, ...]
    connections: tuple[ConnectionStatus, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of ``/status``."""

    version: str
    uptime_seconds: float
    active_connections: int
    policy: PolicyStatus | None
    """None where no policy is loaded, and everything is denied."""
    policy_error: str | None
    """Why the last policy read was rejected; None after a good one."""
    ca_fingerprint: str
    ca_expires: datetime
    audit_healthy: bool


class Status(Protocol):
    """What the admin server asks; no call may block, nor reach out to a provider."""

    async def look(self) -> None:
        """Find out what the other two tell of; asked before them."""

    def not_ready(self) -> Sequence[str]:
        """Why requests would fail now, a sentence each; empty where the proxy is ready."""

    def report(self) -> Report:
        """The state of everything."""


@dataclass(frozen=True, slots=True)
class SecretState:
    """The state of one connection's cached secret."""

    age_seconds: float | None
    last_error: str | None


def describe_rules(policy: Policy) -> tuple[RuleStatus, ...]:
    """Give every rule of ``policy`` in the order in which it is looked at: deny, then allow."""
    return tuple(
        _describe_rule(rule, effect)
        for effect, rules in (("deny", policy.deny), ("allow", policy.allow))
        for rule in rules
    )


def describe_connections(
    policy: Policy, secrets: Mapping[str, SecretState]
) -> tuple[ConnectionStatus, ...]:
    """Give every connection of ``policy``; ``secrets`` holds what is known, by connection."""
    unknown = SecretState(age_seconds=None, last_error=None)
    return tuple(
        ConnectionStatus(
            name=connection.name,
            provider=connection.provider,
            hosts=tuple(pattern.text for pattern in connection.hosts),
            via_gateway=connection.via_gateway,
            source=connection.secret.source if connection.secret else None,
            secret=connection.secret.label if connection.secret else None,
            secret_age_seconds=secrets.get(connection.name, unknown).age_seconds,
            last_error=secrets.get(connection.name, unknown).last_error,
        )
        for connection in policy.connections.values()
    )


def _describe_rule(rule: Rule, effect: str) -> RuleStatus:
    return RuleStatus(
        name=rule.name,
        effect=effect,
        connection=rule.connection.name if rule.connection else None,
        hosts=None if rule.hosts is None else tuple(pattern.text for pattern in rule.hosts),
    )
