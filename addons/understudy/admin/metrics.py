"""What moves the metrics: one method for each thing that happens.

Label values come from the policy, the code and fixed sets; a client chooses none of them. A rule,
connection or carrier that no policy has named is counted under ``none``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from prometheus_client import generate_latest

from understudy.admin.series import Series
from understudy.audit.log import RESULTS
from understudy.audit.sinks import SINKS
from understudy.reasons import CREDENTIAL_REASONS, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from prometheus_client import Metric

    from understudy.policy.model import Policy

NONE = "none"
"""The label of what the policy does not name."""

CODE_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", NONE)
SENT, RECEIVED = ("sent",), ("received",)
SECRET_RESULTS = ("refreshed", "failed")
LOADED, REJECTED = ("loaded",), ("rejected",)


class Metrics:
    """Counts and times; a method takes a few microseconds."""

    def __init__(self) -> None:
        self._series = Series()
        # Of every policy so far: requests in progress outlive a reload.
        self._rules: set[str | None] = set()
        self._connections: set[str | None] = set()
        self._carriers: set[str] = set()
        self._prepare_fixed()

    def render(self) -> bytes:
        """Give every series in the Prometheus text format."""
        return generate_latest(self._series.registry)

    def collect(self) -> Iterable[Metric]:
        """Give every series as it is now."""
        return self._series.registry.collect()

    # -- the policy and what it names

    def prepare(self, policy: Policy) -> None:
        """Start every series of ``policy`` at 0. Counters of earlier policies stay, ages go."""
        series = self._series
        for rule in policy.allow:
            self._rules.add(rule.name)
            series.requests["allow", Reason.ALLOWED.value, rule.name]
            series.upstream_duration[rule.name,]
        for rule in policy.deny:
            self._rules.add(rule.name)
            series.requests["deny", Reason.DENIED_BY_RULE.value, rule.name]
        if policy.mode == "report":
            for reason in Reason:
                if reason.reportable:
                    series.requests["allow", reason.value, NONE]
        series.secret_age.forget()
        for connection in policy.connections.values():
            self._prepare_connection(connection.name)
            for carrier in connection.carriers:
                self._carriers.add(carrier.label)
                series.swaps[connection.name, carrier.label]
            if connection.secret is not None:
                series.secret_age[connection.name,]
                for result in SECRET_RESULTS:
                    series.secret_refresh[connection.secret.source, result]
        if policy.gateway is not None and policy.gateway.preset.carrier is not None:
            self._carriers.add(policy.gateway.preset.carrier.label)

    def policy_loaded(self, digest: str) -> None:
        """A policy is in force from now on."""
        self._series.policy_reloads[LOADED] += 1
        self._series.policy_last_success.set(time.time())
        self._series.policy_info.forget()
        self._series.policy_info[digest,].set(1)

    def policy_rejected(self) -> None:
        """A policy could not be used."""
        self._series.policy_reloads[REJECTED] += 1

    def secret_refreshed(self, source: str, result: str) -> None:
        """A secret was fetched or found changed (``refreshed``), or could not be (``failed``)."""
        known = result if result in SECRET_RESULTS else "failed"
        self._series.secret_refresh[source, known] += 1

    def set_secret_ages(self, ages_seconds: Mapping[str, float | None]) -> None:
        """Set the age of each connection's cached secret; None counts as 0."""
        for connection, age in ages_seconds.items():
            if connection in self._connections:
                self._series.secret_age[connection,].set(age or 0.0)

    # -- requests

    def request_decided(
        self, verdict: Literal["allow", "deny"], reason: Reason, rule: str | None
    ) -> None:
        """Count one verdict."""
        known = rule if rule in self._rules and rule is not None else NONE
        self._series.requests[verdict, reason.value, known] += 1

    def credential_violation(self, connection: str | None, reason: Reason) -> None:
        """Count a refused credential; reasons that are not about credentials do not count."""
        if reason in CREDENTIAL_REASONS:
            self._series.violations[self._known(connection), reason.value] += 1

    def swapped(self, connection: str, carrier: str) -> None:
        """Count one credential that was written into a request."""
        known = carrier if carrier in self._carriers else NONE
        self._series.swaps[self._known(connection), known] += 1

    def reflected(self, connection: str, count: int) -> None:
        """Count secrets that came back in one response."""
        self._series.reflections[self._known(connection),] += count

    def observe_overhead(self, seconds: float) -> None:
        """Time the proxy's own work on one allowed request."""
        self._series.overhead[()].observe(seconds)

    def finished(
        self,
        *,
        rule: str | None,
        connection: str | None,
        status: int | None,
        duration_seconds: float,
        first_byte_seconds: float | None,
        bytes_sent: int,
        bytes_received: int,
    ) -> None:
        """Count and time the end of one allowed request; None where there was no answer."""
        series = self._series
        code_class = NONE if status is None else f"{status // 100}xx"
        if code_class not in CODE_CLASSES:  # the upstream chose it
            code_class = NONE
        series.responses[self._known(connection), code_class] += 1
        known = rule if rule in self._rules and rule is not None else NONE
        series.upstream_duration[known,].observe(duration_seconds)
        if first_byte_seconds is not None:
            series.first_byte[()].observe(first_byte_seconds)
        series.bytes[SENT] += bytes_sent
        series.bytes[RECEIVED] += bytes_received

    def upstream_waited(self) -> None:
        """Count one request that has to wait for a connection to its upstream."""
        self._series.upstream_waits[()] += 1

    # -- the proxy itself

    def set_active_connections(self, count: int) -> None:
        """Set the number of open client connections."""
        self._series.active_connections.set(count)

    def set_ca_expiry(self, not_after: datetime) -> None:
        """Set when the CA certificate expires."""
        self._series.ca_expiry.set(not_after.timestamp())

    def audit_event(self, sink: str, result: str, lines: int = 1) -> None:
        """Count audit lines, ``written`` or ``failed``."""
        self._series.audit_events[sink, result] += lines

    def hook_failed(self, hook: str) -> None:
        """Count an exception in one of the proxy's own hooks."""
        self._series.hook_errors[hook,] += 1

    # -- series at 0

    def _prepare_fixed(self) -> None:
        series = self._series
        for reason in Reason:
            if reason is not Reason.ALLOWED:
                series.requests["deny", reason.value, NONE]
        self._prepare_connection(NONE)
        series.upstream_waits[()]
        series.overhead[()]
        series.first_byte[()]
        series.upstream_duration[NONE,]
        for direction in (SENT, RECEIVED):
            series.bytes[direction]
        for outcome in (LOADED, REJECTED):
            series.policy_reloads[outcome]
        for sink in SINKS:
            for result in RESULTS:
                series.audit_events[sink, result]

    def _prepare_connection(self, name: str) -> None:
        self._connections.add(name)
        self._series.reflections[name,]
        for reason in CREDENTIAL_REASONS:
            self._series.violations[name, reason.value]
        for code_class in CODE_CLASSES:
            self._series.responses[name, code_class]

    def _known(self, connection: str | None) -> str:
        return connection if connection is not None and connection in self._connections else NONE
