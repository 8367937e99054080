from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from understudy.admin.metrics import Metrics
from understudy.admin.series import Series
from understudy.credentials.carriers import Carrier
from understudy.gateways.preset import gateway_presets
from understudy.policy.hosts import HostPattern
from understudy.policy.model import (
    Connection,
    Gateway,
    Limits,
    Policy,
    Rule,
    SecretReference,
    Upstream,
)
from understudy.reasons import CREDENTIAL_REASONS, Reason

ROOT = Path(__file__).parents[2]

EXPECTED = {
    "understudy_requests_total": {"verdict", "reason", "rule"},
    "understudy_swaps_total": {"connection", "carrier"},
    "understudy_credential_violations_total": {"connection", "reason"},
    "understudy_reflections_total": {"connection"},
    "understudy_upstream_responses_total": {"connection", "code_class"},
    "understudy_upstream_duration_seconds": {"rule"},
    "understudy_overhead_seconds": set(),
    "understudy_first_byte_seconds": set(),
    "understudy_upstream_waits_total": set(),
    "understudy_active_connections": set(),
    "understudy_bytes_total": {"direction"},
    "understudy_secret_refresh_total": {"source", "result"},
    "understudy_secret_age_seconds": {"connection"},
    "understudy_policy_reloads_total": {"result"},
    "understudy_policy_last_success_timestamp_seconds": set(),
    "understudy_policy_info": {"digest"},
    "understudy_ca_expiry_timestamp_seconds": set(),
    "understudy_audit_events_total": {"sink", "result"},
    "understudy_hook_errors_total": {"hook"},
    "understudy_build_info": {"version", "mitmproxy", "python"},
}


def make_rule(name: str) -> Rule:
    return Rule(
        name=name,
        connection=None,
        hosts=None,
        ports=None,
        schemes=frozenset({"https"}),
        methods=None,
        paths=None,
    )


def make_policy(
    rules=("claude",), denials=("no-deletes",), connections=("team",), **changes
) -> Policy:
    made = [
        Connection(
            name=name,
            provider=None,
            hosts=(HostPattern.parse("h.example"),),
            carriers=(Carrier.parse({"header": "X-Api-Key"}), Carrier.parse({"bearer": True})),
            secret=SecretReference("file", "/run/key"),
        )
        for name in connections
    ]
    return Policy(
        **{
            "mode": "enforce",
            "connections": {connection.name: connection for connection in made},
            "allow": tuple(make_rule(name) for name in rules),
            "deny": tuple(make_rule(name) for name in denials),
            "gateway": None,
            "upstream": Upstream(),
            "limits": Limits(),
            "digest": "sha256:1",
        }
        | changes
    )


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.prepare(make_policy())
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def move_everything(metrics: Metrics) -> None:
    metrics.policy_loaded("sha256:1")
    metrics.policy_rejected()
    metrics.secret_refreshed("file", "refreshed")
    metrics.set_secret_ages({"team": 3.0})
    metrics.request_decided("allow", Reason.ALLOWED, "claude")
    metrics.credential_violation("team", Reason.FOREIGN_CREDENTIAL)
    metrics.swapped("team", "header:x-api-key")
    metrics.reflected("team", 2)
    metrics.observe_overhead(0.001)
    finish(metrics)
    metrics.upstream_waited()
    metrics.set_active_connections(1)
    metrics.set_ca_expiry(datetime(2030, 1, 1, tzinfo=UTC))
    metrics.audit_event("file", "written")
    metrics.hook_failed("requestheaders")


def finish(metrics: Metrics, **changes) -> None:
    metrics.finished(
        **{
            "rule": "claude",
            "connection": "team",
            "status": 200,
            "duration_seconds": 1.0,
            "first_byte_seconds": 0.5,
            "bytes_sent": 10,
            "bytes_received": 20,
        }
        | changes
    )


def test_the_metrics_are_exactly_the_documented_ones(metrics):
    move_everything(metrics)
    found: dict[str, set[str]] = {}
    for name, labels in samples(metrics):
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        found.setdefault(base, set()).update(key for key, _ in labels if key != "le")

    assert found == EXPECTED


def test_the_docs_name_every_metric_and_label():
    text = (ROOT / "docs/metrics.md").read_text()
    missing = {name for name in EXPECTED if f"`{name}" not in text}
    missing |= {label for labels in EXPECTED.values() for label in labels if label not in text}

    assert not missing


def test_every_series_has_a_help_text():
    for family in Series().registry.collect():
        assert family.documentation.endswith(".")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("requests_total", {"verdict": "allow", "reason": "allowed", "rule": "claude"}),
        ("requests_total", {"verdict": "deny", "reason": "denied_by_rule", "rule": "no-deletes"}),
        ("requests_total", {"verdict": "deny", "reason": "host_not_allowed", "rule": "none"}),
        ("swaps_total", {"connection": "team", "carrier": "header:x-api-key"}),
        ("swaps_total", {"connection": "team", "carrier": "header:authorization"}),
        (
            "credential_violations_total",
            {"connection": "team", "reason": "placeholder_wrong_host"},
        ),
        ("upstream_responses_total", {"connection": "team", "code_class": "5xx"}),
        ("upstream_duration_seconds_count", {"rule": "claude"}),
        ("overhead_seconds_count", {}),
        ("first_byte_seconds_count", {}),
        ("upstream_waits_total", {}),
        ("active_connections", {}),
        ("bytes_total", {"direction": "sent"}),
        ("secret_refresh_total", {"source": "file", "result": "failed"}),
        ("secret_age_seconds", {"connection": "team"}),
        ("policy_reloads_total", {"result": "rejected"}),
        ("policy_last_success_timestamp_seconds", {}),
        ("audit_events_total", {"sink": "file", "result": "failed"}),
    ],
)
def test_series_start_at_zero(metrics, name, labels):
    assert value(metrics, f"understudy_{name}", **labels) == 0


def test_report_modes_would_be_denials_start_at_zero_too():
    metrics = Metrics()
    metrics.prepare(make_policy(mode="report"))

    labels = {"verdict": "allow", "reason": "host_not_allowed", "rule": "none"}
    assert value(metrics, "understudy_requests_total", **labels) == 0


def test_things_that_happen_are_counted(metrics):
    move_everything(metrics)

    def moved(name, **labels):
        return value(metrics, f"understudy_{name}", **labels)

    assert moved("requests_total", verdict="allow", reason="allowed", rule="claude") == 1
    assert moved("swaps_total", connection="team", carrier="header:x-api-key") == 1
    assert moved("credential_violations_total", connection="team", reason="foreign_credential") == 1
    assert moved("upstream_responses_total", connection="team", code_class="2xx") == 1
    assert moved("upstream_duration_seconds_sum", rule="claude") == 1.0
    assert moved("first_byte_seconds_sum") == 0.5
    assert moved("overhead_seconds_bucket", le="0.001") == 1
    assert moved("bytes_total", direction="sent") == 10
    assert moved("bytes_total", direction="received") == 20
    assert moved("secret_age_seconds", connection="team") == 3.0
    assert moved("policy_info", digest="sha256:1") == 1
    assert moved("policy_last_success_timestamp_seconds") > 1_700_000_000
    assert moved("ca_expiry_timestamp_seconds") == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert moved("hook_errors_total", hook="requestheaders") == 1


def test_reasons_that_are_not_about_credentials_are_no_violations(metrics):
    before = samples(metrics)
    for reason in set(Reason) - CREDENTIAL_REASONS:
        metrics.credential_violation("team", reason)

    assert samples(metrics) == before


@given(
    st.lists(
        st.tuples(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2000)), max_size=20
    )
)
def test_nothing_that_a_client_or_upstream_chooses_becomes_a_label(calls):
    metrics = Metrics()
    metrics.prepare(make_policy())
    for rule, connection, status in [*calls, ("claude", "team", 200)]:
        metrics.request_decided("deny", Reason.HOST_NOT_ALLOWED, rule)
        metrics.credential_violation(connection, Reason.FOREIGN_CREDENTIAL)
        metrics.swapped(connection, rule)
        metrics.set_secret_ages({connection: 1.0})
        finish(metrics, rule=rule, connection=connection, status=status)
    allowed = {"claude", "team", "none", "no-deletes", "header:x-api-key", "header:authorization"}

    for name, labels in samples(metrics):
        for label, chosen in labels:
            if label in ("rule", "connection", "carrier"):
                assert chosen in allowed, (name, label)
            if label == "code_class":
                assert chosen in ("1xx", "2xx", "3xx", "4xx", "5xx", "none")


def test_the_number_of_series_does_not_grow_with_traffic(metrics):
    move_everything(metrics)
    metrics.request_decided("deny", Reason.HOST_NOT_ALLOWED, None)
    before = len(samples(metrics))
    for number in range(1000):
        metrics.request_decided("deny", Reason.HOST_NOT_ALLOWED, f"rule-{number}")
        metrics.swapped("team", f"header:x-{number}")
    grown = len(samples(metrics)) - before

    assert grown <= 1  # swaps under carrier="none"


def test_a_reload_keeps_counts_and_drops_ages_and_the_old_digest(metrics):
    move_everything(metrics)
    metrics.prepare(make_policy(rules=["new"], connections=["other"]))
    metrics.policy_loaded("sha256:2")
    names = samples(metrics)

    labels = {"verdict": "allow", "reason": "allowed"}
    assert value(metrics, "understudy_requests_total", rule="claude", **labels) == 1
    assert value(metrics, "understudy_requests_total", rule="new", **labels) == 0
    ages = [labels for name, labels in names if name == "understudy_secret_age_seconds"]
    assert ages == [(("connection", "other"),)]
    digests = [labels for name, labels in names if name == "understudy_policy_info"]
    assert digests == [(("digest", "sha256:2"),)]


def test_a_request_that_outlives_its_policy_is_counted_under_its_rule(metrics):
    metrics.prepare(make_policy(rules=["new"], connections=["other"]))
    finish(metrics)

    assert value(metrics, "understudy_upstream_duration_seconds_count", rule="claude") == 1


def test_a_gateways_own_carrier_is_known():
    preset = gateway_presets()["portkey"]
    assert preset.carrier is not None
    gateway = Gateway(preset, "https", "gw.example", 443, "", frozenset())
    metrics = Metrics()
    metrics.prepare(make_policy(gateway=gateway))
    metrics.swapped("team", preset.carrier.label)

    label = preset.carrier.label
    assert value(metrics, "understudy_swaps_total", connection="team", carrier=label) == 1


def test_a_request_without_an_answer_is_counted_and_its_first_byte_is_not(metrics):
    finish(metrics, status=None, first_byte_seconds=None)

    labels = {"connection": "team", "code_class": "none"}
    assert value(metrics, "understudy_upstream_responses_total", **labels) == 1
    assert value(metrics, "understudy_first_byte_seconds_count") == 0


def test_two_proxies_in_one_process_do_not_share_counts(metrics):
    other = Metrics()
    move_everything(metrics)

    assert value(other, "understudy_bytes_total", direction="sent") == 0
