"""Every series that the proxy exposes: names, labels, buckets, in a registry of its own."""

from __future__ import annotations

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge

from understudy.admin.collectors import Counts, Timings

# A model may think for minutes; the proxy itself takes well under a millisecond.
ANSWER_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
OVERHEAD_BUCKETS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)


class Gauges(dict[tuple[str, ...], Gauge]):
    """A labelled gauge's series by label values, made when first asked for and kept."""

    def __init__(self, metric: Gauge) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> Gauge:
        child = self._metric.labels(*values)
        self[values] = child
        return child

    def forget(self) -> None:
        """Remove every series."""
        self._metric.clear()
        self.clear()


class Series:
    """The metrics themselves; :class:`understudy.admin.metrics.Metrics` says when they move."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counts(
            "understudy_requests",
            "Requests and refused connections by verdict.",
            ["verdict", "reason", "rule"],
            registry=registry,
        )
        self.swaps = Counts(
            "understudy_swaps",
            "Credentials written into a request, by connection and carrier.",
            ["connection", "carrier"],
            registry=registry,
        )
        self.violations = Counts(
            "understudy_credential_violations",
            "Refused credentials, by the connection whose placeholder was seen.",
            ["connection", "reason"],
            registry=registry,
        )
        self.reflections = Counts(
            "understudy_reflections",
            "Secrets that an upstream sent back, replaced by the placeholder.",
            ["connection"],
            registry=registry,
        )
        self.responses = Counts(
            "understudy_upstream_responses",
            "How allowed requests ended, by the class of the status; none: no answer.",
            ["connection", "code_class"],
            registry=registry,
        )
        self.upstream_duration = Timings(
            "understudy_upstream_duration_seconds",
            "From a request's arrival to the last byte of its answer.",
            ["rule"],
            buckets=ANSWER_BUCKETS_SECONDS,
            registry=registry,
        )
        self.overhead = Timings(
            "understudy_overhead_seconds",
            "From an allowed request's arrival to the verdict in the audit log.",
            buckets=OVERHEAD_BUCKETS_SECONDS,
            registry=registry,
        )
        self.first_byte = Timings(
            "understudy_first_byte_seconds",
            "From a request's arrival to the head of its answer.",
            buckets=ANSWER_BUCKETS_SECONDS,
            registry=registry,
        )
        self.active_connections = Gauge(
            "understudy_active_connections", "Client connections open now.", registry=registry
        )
        self.upstream_waits = Counts(
            "understudy_upstream_waits",
            "Requests that had to wait for a connection to an upstream that had its most.",
            [],
            registry=registry,
        )
        self.bytes = Counts(
            "understudy_bytes",
            "Bytes of bodies: sent to upstreams, received from them.",
            ["direction"],
            registry=registry,
        )
        self.secret_refresh = Counts(
            "understudy_secret_refresh",
            "Secrets fetched or found changed, and attempts that failed.",
            ["source", "result"],
            registry=registry,
        )
        self.secret_age = Gauges(
            Gauge(
                "understudy_secret_age_seconds",
                "Age of the cached secret; 0 before it is first fetched.",
                ["connection"],
                registry=registry,
            )
        )
        self.policy_reloads = Counts(
            "understudy_policy_reloads",
            "Policies read, at start and after changes.",
            ["result"],
            registry=registry,
        )
        self.policy_last_success = Gauge(
            "understudy_policy_last_success_timestamp_seconds",
            "When a policy was last loaded; 0: never.",
            registry=registry,
        )
        self.policy_info = Gauges(
            Gauge(
                "understudy_policy_info",
                "1 for the policy in force.",
                ["digest"],
                registry=registry,
            )
        )
        self.ca_expiry = Gauge(
            "understudy_ca_expiry_timestamp_seconds",
            "When the CA certificate expires.",
            registry=registry,
        )
        self.audit_events = Counts(
            "understudy_audit_events",
            "Audit lines written and lines that could not be.",
            ["sink", "result"],
            registry=registry,
        )
        self.hook_errors = Counts(
            "understudy_hook_errors",
            "Exceptions in the proxy's own hooks; each one refused its request.",
            ["hook"],
            registry=registry,
        )
        build_info = Gauge(
            "understudy_build_info",
            "1, with the versions of what runs.",
            ["version", "mitmproxy", "python"],
            registry=registry,
        )
        build_info.labels(
            version("understudy"), version("mitmproxy"), platform.python_version()
        ).set(1)
