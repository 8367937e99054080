"""The table at the end of exec."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from understudy.audit.sinks import AuditUnavailable
from understudy.cli.tally import MAX_REFUSALS, MAX_ROWS, TalliedSink, Tally, print_tally


def decided(host: str = "a.example", **changes: Any) -> dict[str, Any]:
    return {
        "event": "request.decided",
        "request_id": "1",
        "verdict": "allow",
        "reason": "allowed",
        "rule": "r",
        "http": {"method": "GET", "host": host, "port": 443, "path": "/p"},
    } | changes


def denied(host: str = "a.example", reason: str = "path_not_allowed") -> dict[str, Any]:
    return decided(host, verdict="deny", reason=reason, rule=None)


def shown(*events: dict[str, Any]) -> str:
    tally = Tally()
    for event in events:
        tally.add(event)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_tally(console, tally)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n\n", maxsplit=1)[0].splitlines()]


def test_requests_are_counted_by_host_and_rule() -> None:
    swapped = [{"secret": "K", "location": "header:authorization"}]
    text = shown(decided(), decided(swapped=swapped), decided("b.example", rule="s"))
    assert rows(text) == [
        ["host", "rule", "allowed", "swapped", "denied"],
        ["a.example", "r", "2", "1", "-"],
        ["b.example", "s", "1", "-", "-"],
    ]


def test_hosts_with_denials_come_first_with_reason_and_hint() -> None:
    text = shown(decided(), denied("z.example"), denied("z.example"))
    assert rows(text)[1] == ["z.example", "-", "-", "-", "2"]
    assert "GET z.example/p (2 times)" in text
    assert "path_not_allowed Add the path" in text


def test_report_mode_shows_what_enforce_mode_would_deny() -> None:
    text = shown(decided(reason="host_not_allowed", rule=None, mode="report"))
    assert rows(text)[0][-1] == "reported"
    assert rows(text)[1] == ["a.example", "-", "-", "-", "-", "1"]
    assert "host_not_allowed" in text


def test_an_upstream_that_fails_is_shown_with_its_request() -> None:
    finished = {"event": "request.finished", "request_id": "1", "reason": "upstream_failed"}
    assert "GET a.example/p\n  upstream_failed" in shown(decided(), finished)


def test_a_request_that_ended_well_is_no_refusal() -> None:
    finished = {"event": "request.finished", "request_id": "1", "status": 500}
    assert "upstream" not in shown(decided(), finished)


def test_a_client_that_asks_again_with_its_token_was_not_refused() -> None:
    first = denied(reason="proxy_auth_required") | {"event": "tunnel.denied"}
    assert "proxy_auth_required" not in shown(first, decided())


def test_a_client_that_never_gives_its_token_was_refused() -> None:
    first = denied(reason="proxy_auth_required") | {"event": "tunnel.denied"}
    text = shown(first, decided("b.example"))
    assert rows(text)[1] == ["a.example", "-", "-", "-", "1"]
    assert "proxy_auth_required" in text


def test_a_connection_that_was_opened_in_advance_counts_nothing() -> None:
    unused = denied(reason="client_closed") | {
        "event": "connection.rejected",
        "detail": "the tunnel was not used",
    }
    assert shown(unused) == "Nothing was requested through the proxy.\n"


def test_a_handshake_that_the_client_broke_off_is_shown() -> None:
    broken = {
        "event": "connection.rejected",
        "verdict": "deny",
        "reason": "client_closed",
        "detail": "the TLS handshake failed",
        "http": {"host": "a.example", "port": 443},
    }
    text = shown(broken)
    assert "connection to a.example" in text
    assert "the TLS handshake failed. The program hung up" in " ".join(text.split())


def test_the_table_stays_short_however_much_was_asked_for() -> None:
    text = shown(*(denied(f"h{number}.example") for number in range(3000)))
    assert len(text.splitlines()) <= MAX_ROWS + 2 * MAX_REFUSALS + 5
    assert "and 981 more" in text
    assert "and 995 more; the audit has them all" in text


@given(st.text(), st.text(), st.text())
def test_nothing_that_an_agent_writes_reaches_the_terminal_as_a_control(
    host: str, path: str, method: str
) -> None:
    event = denied(reason="bad_target")
    event["http"] = {"method": method, "host": host, "path": path}
    text = shown(event)
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_markup_of_an_agent_is_text() -> None:
    assert "[link=x]y" in shown(denied("[link=x]y"))


class Sink:
    name = "file"

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.lines: list[bytes] = []

    def start(self) -> None: ...
    def check(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...

    def write(self, line: bytes) -> None:
        if self.full:
            raise AuditUnavailable("full")
        self.lines.append(line)


def test_a_line_counts_once_it_is_written() -> None:
    tally, sink = Tally(), Sink()
    tallied = TalliedSink(sink, tally)
    line = json.dumps(decided()).encode()
    tallied.write(line)
    assert (sink.lines, tally.rows["a.example", "r"].allowed) == ([line], 1)
    sink.full = True
    with pytest.raises(AuditUnavailable):
        tallied.write(line)
    assert tally.rows["a.example", "r"].allowed == 1
