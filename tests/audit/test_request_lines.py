"""The quick way to write a request's lines gives the lines that the usual way gives."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit.exchanges import make_exchange, make_policy

from understudy.audit import events
from understudy.audit.line import encode
from understudy.audit.request_lines import decided_line, finished_line
from understudy.credentials.scrub import Scrubber, forms_of
from understudy.policy.model import Target, Verdict
from understudy.reasons import Reason
from understudy.stages.exchange import Session
from understudy.wire.outline import Outline

ALLOWED = Verdict(allow=True, reason=Reason.ALLOWED, rule="r")
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "session": st.builds(Session, address=st.sampled_from(["127.0.0.1", 'fe80::1%"\n'])),
        "policy": st.sampled_from([make_policy(), make_policy(mode="report", gateway=None)]),
        "target": st.builds(
            Target,
            st.just("GET"),
            st.just("https"),
            st.just("a.example"),
            st.just(443),
            st.text(max_size=3000) | st.just("/secret"),
        ),
        "verdict": st.sampled_from([None, ALLOWED, ALLOWED._replace(reason=Reason.DENIED_BY_RULE)]),
        "routed": st.none(),
        "swapped": st.just(()),
        "refusal": st.sampled_from([None, Reason.FOREIGN_CREDENTIAL]),
        "detail": st.sampled_from([None, "a detail"]),
        "bytes_sent": st.integers(0, 10**12),
        "first_byte_at": st.floats(10, 1e6).map(lambda seconds: round(seconds, 6)),
    },
)


def hide(line: bytes) -> bytes:
    return line.replace(b"secret", b"<hidden>")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "now", lambda: "2026-01-01T00:00:00.000Z")


@given(st.lists(CHANGES, max_size=5))
def test_every_line_is_the_one_that_encode_gives(several: list[dict[str, object]]) -> None:
    outline = Outline((), b"/", lasts=True)
    for changes in [*several, *several]:
        exchange = make_exchange(outline=outline, **changes)
        assert decided_line(exchange, hide) == hide(encode(events.request_decided(exchange)))
        for status, reason in ((200, None), (None, None), (502, Reason.UPSTREAM_FAILED)):
            line = finished_line(exchange, status=status, reason=reason, now=11.25)
            event = events.request_finished(exchange, status=status, reason=reason, now=11.25)
            assert line.endswith(b"}\n")
            assert json.loads(line) == json.loads(encode(event))
            assert list(json.loads(line)) == list(json.loads(encode(event)))


def test_reflections_are_in_the_line() -> None:
    scrubber = Scrubber(forms_of(()))
    scrubber.found["c"] = 2
    exchange = replace(make_exchange(), scrubber=scrubber, first_byte_at=10.5)
    line = finished_line(exchange, status=200, reason=None, now=11.0)
    assert b'"reflected":2' in line
