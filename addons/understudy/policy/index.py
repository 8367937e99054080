"""Which rules speak about a host, found in constant time however long the policy is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.policy.model import Rule


@dataclass(frozen=True, slots=True)
class HostRules:
    """The rules whose hosts match one host, in the policy's order."""

    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]


class RuleIndex:
    """Rules by host. Its size depends on the policy alone, never on the hosts asked for."""

    __slots__ = ("_elsewhere", "_exact", "_suffixes")

    def __init__(self, allow: tuple[Rule, ...], deny: tuple[Rule, ...]) -> None:
        patterns = {
            pattern.text for rule in (*allow, *deny) if rule.hosts for pattern in rule.hosts
        }
        self._exact = {
            host: HostRules(_at(host, allow), _at(host, deny))
            for host in patterns
            if not host.startswith("*.")
        }
        # Any host below a suffix, and below no longer one, is matched by the same rules as this
        # one. "-" starts no label, so the stand-in is no host that a pattern names exactly.
        self._suffixes = {
            text[1:]: HostRules(_at("-" + text[1:], allow), _at("-" + text[1:], deny))
            for text in patterns
            if text.startswith("*.")
        }
        # Where nothing is allowed, what else is denied makes no difference.
        self._elsewhere = HostRules((), ())

    def at(self, host: str) -> HostRules:
        """Return the rules that match the canonical ``host``, whatever else they ask for."""
        found = self._exact.get(host)
        if found is not None:
            return found
        if self._suffixes:
            dot = host.find(".")
            while dot >= 0:
                found = self._suffixes.get(host[dot:])
                if found is not None and dot > 0:
                    return found
                dot = host.find(".", dot + 1)
        return self._elsewhere


def _at(host: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(
        rule
        for rule in rules
        if rule.hosts is None or any(pattern.matches(host) for pattern in rule.hosts)
    )
