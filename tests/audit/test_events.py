from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.audit.exchanges import make_exchange, make_head, make_policy

from understudy.audit import events
from understudy.audit.line import encode
from understudy.policy.model import Verdict
from understudy.policy.problems import Problem
from understudy.reasons import Reason

ROOT = Path(__file__).parents[2]


def written(event) -> dict:
    line = encode(event)
    assert line.endswith(b"}\n")
    return json.loads(line)


def without_time(event) -> dict:
    fields = written(event)
    assert fields.pop("schema") == "understudy.audit/1"
    time = datetime.strptime(fields.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    return fields


def test_an_allowed_request_says_who_what_where_and_which_secret():
    assert without_time(events.request_decided(make_exchange())) == {
        "event": "request.decided",
        "request_id": "01J00000000000000000000000",
        "verdict": "allow",
        "reason": "allowed",
        "rule": "claude",
        "connection": "anthropic-team",
        "policy_digest": "sha256:" + "a" * 64,
        "client": {"address": "127.0.0.1"},
        "http": {
            "method": "POST",
            "scheme": "https",
            "host": "api.anthropic.com",
            "port": 443,
            "path": "/v1/messages",
        },
        "gateway": {
            "kind": "litellm",
            "scheme": "https",
            "host": "litellm.internal",
            "port": 443,
            "path": "/v1/messages",
        },
        "swapped": [{"secret": "ANTHROPIC_API_KEY", "location": "header:x-api-key"}],
    }


def test_the_first_fields_are_schema_time_and_event():
    line = encode(events.request_decided(make_exchange()))

    assert line.startswith(b'{"schema":"understudy.audit/1","time":"')
    assert list(json.loads(line))[:3] == ["schema", "time", "event"]


def test_a_denial_gives_its_reason_and_claims_no_swap():
    exchange = make_exchange(
        refusal=Reason.PATH_NOT_ALLOWED,
        verdict=Verdict(False, Reason.PATH_NOT_ALLOWED),
        routed=None,
    )
    fields = without_time(events.request_decided(exchange))

    assert (fields["verdict"], fields["reason"]) == ("deny", "path_not_allowed")
    assert not {"rule", "connection", "swapped", "gateway"} & set(fields)


def test_report_mode_says_what_enforce_would_have_denied():
    exchange = make_exchange(
        policy=make_policy(mode="report"),
        verdict=Verdict(True, Reason.HOST_NOT_ALLOWED),
        swapped=[],
        routed=None,
    )
    fields = without_time(events.request_decided(exchange))

    assert (fields["verdict"], fields["reason"], fields["mode"]) == (
        "allow",
        "host_not_allowed",
        "report",
    )


def test_a_refused_credential_names_the_connection_it_is_about():
    exchange = make_exchange(refusal=Reason.FOREIGN_CREDENTIAL, verdict=None)

    fields = without_time(events.request_decided(exchange))

    assert fields["connection"] == "anthropic-team"


def test_without_a_policy_a_denial_is_still_an_event():
    exchange = make_exchange(policy=None, verdict=None, refusal=Reason.POLICY_MISSING, routed=None)
    fields = without_time(events.request_decided(exchange))

    assert fields["reason"] == "policy_missing"
    assert "policy_digest" not in fields


def test_what_has_no_canonical_form_is_shown_as_written_but_without_its_query():
    head = make_head(host=b"\xffevil:99", path=b"/a/../\xff?token=hunter2", target=b"x")
    exchange = make_exchange(
        target=None, verdict=None, routed=None, head=head, refusal=Reason.BAD_TARGET
    )
    fields = without_time(events.request_decided(exchange))

    assert fields["http"] == {"method": "POST", "host": "\\xffevil:99", "path": "/a/../\\xff"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target": None, "head": make_head(path=b"", target=b"/x?hunter2")},
        {"target": None, "head": make_head(path=b"/x#hunter2")},
        {"target": None, "head": make_head(path=b"", target=b"http://h/?hunter2 junk")},
    ],
)
def test_the_query_is_never_written(changes):
    line = encode(events.request_decided(make_exchange(**changes)))

    assert b"hunter2" not in line
    assert b"beta" not in line


def test_the_end_of_a_request_gives_sizes_and_times():
    exchange = make_exchange(first_byte_at=10.402, bytes_sent=2048, bytes_received=913)

    event = events.request_finished(exchange, status=200, reason=None, now=10.8124)

    assert without_time(event) == {
        "event": "request.finished",
        "request_id": "01J00000000000000000000000",
        "status": 200,
        "bytes_sent": 2048,
        "bytes_received": 913,
        "duration_ms": 812.4,
        "first_byte_ms": 402.0,
        "overhead_ms": 1.1,
    }


def test_a_request_that_broke_off_says_why():
    exchange = make_exchange(detail="the upstream's certificate has expired")
    event = events.request_finished(exchange, status=502, reason=Reason.UPSTREAM_FAILED, now=11.0)
    fields = without_time(event)

    assert fields["reason"] == "upstream_failed"
    assert fields["detail"] == "the upstream's certificate has expired"
    assert "first_byte_ms" not in fields


@pytest.mark.parametrize(
    ("target", "http"),
    [
        (b"evil.example:443", {"host": "evil.example", "port": 443}),
        (b"[::1]:443", {"host": "[::1]", "port": 443}),
        (b"evil.example", {"host": "evil.example"}),
        (b"h:99999999", {"host": "h:99999999"}),
        (b"\xff\n:1", {"host": "\\xff\n", "port": 1}),
        (b"", {"host": ""}),
        ("h:٤٤٣".encode(), {"host": "h:٤٤٣"}),
        (b"u:p@h/?q=hunter2", {"host": "u:p@h/"}),
    ],
)
def test_a_refused_connect_shows_its_target(target, http):
    event = events.tunnel_denied(
        reason=Reason.HOST_NOT_ALLOWED, request_id="01J", client="10.0.0.9", target=target
    )
    fields = without_time(event)

    assert fields["event"] == "tunnel.denied"
    assert (fields["verdict"], fields["reason"]) == ("deny", "host_not_allowed")
    assert fields["client"] == {"address": "10.0.0.9"}
    assert fields["http"] == {"method": "CONNECT"} | http


def test_a_rejected_connection_shows_its_tunnel_if_it_had_one():
    with_tunnel = events.connection_rejected(
        reason=Reason.SNI_MISMATCH, client="10.0.0.9", host="good.example", port=443
    )
    without = events.connection_rejected(reason=Reason.NOT_HTTP, client="10.0.0.9", detail="binary")

    assert without_time(with_tunnel)["http"] == {"host": "good.example", "port": 443}
    assert without_time(without) == {
        "event": "connection.rejected",
        "verdict": "deny",
        "reason": "not_http",
        "detail": "binary",
        "client": {"address": "10.0.0.9"},
    }


def test_a_policy_that_is_loaded_is_counted():
    assert without_time(events.policy_loaded(make_policy())) == {
        "event": "policy.loaded",
        "policy_digest": "sha256:" + "a" * 64,
        "mode": "enforce",
        "rules": 0,
        "connections": 1,
    }


def test_a_rejected_policy_lists_a_bounded_number_of_problems():
    problems = [Problem("p.yaml", line, "allow[0]", "wrong") for line in range(100)]
    fields = without_time(events.policy_rejected(problems, kept_digest=None))

    assert len(fields["problems"]) == 16
    assert fields["problems"][1] == {
        "file": "p.yaml",
        "line": 1,
        "field": "allow[0]",
        "message": "wrong",
    }
    assert "policy_digest" not in fields


def test_secrets_are_named():
    refreshed = events.secret_refreshed(connection="c", secret="API_KEY", source="env")
    failed = events.secret_failed(connection="c", secret="key", source="file", detail="is empty")

    assert without_time(refreshed)["secret"] == "API_KEY"
    assert without_time(failed)["detail"] == "is empty"


def test_the_proxy_says_when_it_comes_and_goes():
    ready = events.proxy_ready(
        proxy="127.0.0.1:9080",
        admin=None,
        version="0.1.0",
        ca_fingerprint=":".join(["AB"] * 32),
        policy_digest=None,
    )

    assert without_time(ready)["proxy"] == "127.0.0.1:9080"
    assert without_time(events.proxy_stopped(uptime_seconds=1.23456))["uptime_seconds"] == 1.235


def test_the_docs_name_every_event_and_every_field():
    text = (ROOT / "docs/audit.md").read_text()
    constants = vars(events)
    fields = {value for name, value in constants.items() if name.startswith("FIELD_")}

    assert len(fields) > 30
    assert {name for name in {*fields, *events.EVENTS} if f"`{name}`" not in text} == set()


def test_the_docs_name_every_reason():
    text = (ROOT / "docs/audit.md").read_text()

    assert {reason for reason in Reason if f"`{reason}`" not in text} == set()
