"""What a run did, counted from its audit lines as they are written, and the table of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from understudy.audit import events
from understudy.cli.hints import HINTS
from understudy.reasons import Reason

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.audit.sinks import Sink
    from understudy.cli.console import Output

_REASONS = {str(reason): reason for reason in Reason}
MAX_ROWS = 20
MAX_REFUSALS = 5
_MAX_KEPT = 1000
_MAX_REQUEST_CHARACTERS = 160
_REST = "(others)"
_NO_RULE = "-"


@dataclass
class Row:
    """One host under one rule."""

    allowed: int = 0
    swapped: int = 0
    denied: int = 0
    reported: int = 0
    """Allowed by report mode alone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused or failed, as the summary shows it."""

    reason: Reason
    request: str
    detail: str | None = None


@dataclass
class Tally:
    """Counts verdicts by host and rule; bounded, whatever an agent asks for."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    unknown_callers: Counter[str] = field(default_factory=Counter)
    """Hosts asked for without the token. Git and others ask so first, and then again with it."""
    _open: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, event: dict[str, Any]) -> None:
        """Take one audit event; those without a verdict or an end count nothing."""
        match event[events.FIELD_EVENT]:
            case events.REQUEST_DECIDED | events.TUNNEL_DENIED | events.CONNECTION_REJECTED:
                self._add_verdict(event)
            case events.REQUEST_FINISHED:
                request = self._open.pop(event[events.FIELD_REQUEST_ID], None)
                if request is not None and events.FIELD_REASON in event:
                    self._refused(event, request[1])

    def settle(self) -> None:
        """Count as denied what never came back with the token; call it at the end."""
        served = {host for host, _ in self.rows}
        for host, count in self.unknown_callers.items():
            if host not in served:
                self._row(host, _NO_RULE).denied += count
                self.refusals[Refusal(Reason.PROXY_AUTH_REQUIRED, f"CONNECT {host}")] += count
        self.unknown_callers.clear()

    def _add_verdict(self, event: dict[str, Any]) -> None:
        http = event.get(events.FIELD_HTTP, {})
        host = _plain(http.get(events.FIELD_HOST, "?"))
        reason = event[events.FIELD_REASON]
        if (
            reason == Reason.CLIENT_CLOSED
            and event.get(events.FIELD_DETAIL) != "the TLS handshake failed"
        ):
            return  # a connection that was opened in advance and not needed
        if reason == Reason.PROXY_AUTH_REQUIRED:
            self.unknown_callers[host if len(self.unknown_callers) < _MAX_KEPT else _REST] += 1
            return
        row = self._row(host, event.get(events.FIELD_RULE) or _NO_RULE)
        request = _describe(http, host)
        if event[events.FIELD_VERDICT] == events.DENY:
            row.denied += 1
            self._refused(event, request)
            return
        if reason == Reason.ALLOWED:
            row.allowed += 1
        else:
            row.reported += 1
            self._refused(event, request)
        row.swapped += bool(event.get(events.FIELD_SWAPPED))
        if len(self._open) < _MAX_KEPT:
            self._open[event[events.FIELD_REQUEST_ID]] = (host, request)

    def _row(self, host: str, rule: str) -> Row:
        if (host, rule) not in self.rows and len(self.rows) >= _MAX_KEPT:
            host, rule = _REST, _NO_RULE
        return self.rows.setdefault((host, rule), Row())

    def _refused(self, event: dict[str, Any], request: str) -> None:
        refusal = Refusal(
            _REASONS[event[events.FIELD_REASON]], request, event.get(events.FIELD_DETAIL)
        )
        if refusal in self.refusals or len(self.refusals) < _MAX_KEPT:
            self.refusals[refusal] += 1


class TalliedSink:
    """A sink that lets a tally read along; a line counts once it is written."""

    def __init__(self, sink: Sink, tally: Tally) -> None:
        self._sink = sink
        self._tally = tally
        self.start = sink.start
        self.check = sink.check
        self.reopen = sink.reopen
        self.close = sink.close

    @property
    def name(self) -> str:
        """The kind of the sink behind."""
        return self._sink.name

    def write(self, lines: bytes) -> None:
        """Write lines and count them; raises AuditUnavailable."""
        self._sink.write(lines)
        for line in lines.splitlines():
            self._tally.add(json.loads(line))


def print_tally(console: Output | Console, tally: Tally) -> None:
    """Show the table, and the first refusals with what to do about them."""
    tally.settle()
    if not tally.rows:
        console.print("[dim]Nothing was requested through the proxy.[/]")
        return
    console.print(_table(tally))
    if tally.refusals:
        console.print()
    for refusal, count in list(tally.refusals.items())[:MAX_REFUSALS]:
        times = f" ({count} times)" if count > 1 else ""
        console.print(f"{escape(refusal.request)}{times}", soft_wrap=True)
        detail = f"{refusal.detail}. " if refusal.detail else ""
        console.print(
            f"  [yellow]{refusal.reason}[/] [dim]{escape(detail + HINTS[refusal.reason])}[/]",
            soft_wrap=True,
        )
    more = len(tally.refusals) - MAX_REFUSALS
    if more > 0:
        console.print(f"[dim]and {more} more; the audit has them all[/]")


def _table(tally: Tally) -> Table:
    reports = any(row.reported for row in tally.rows.values())
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("host", overflow="fold")
    table.add_column("rule", overflow="fold")
    for name in ("allowed", "swapped", "denied", *(("reported",) if reports else ())):
        table.add_column(name, justify="right", no_wrap=True)
    denied = {host for (host, _), row in tally.rows.items() if row.denied}
    items = sorted(tally.rows.items(), key=lambda item: (item[0][0] not in denied, item[0]))
    for (host, rule), row in items[:MAX_ROWS]:
        cells = [str(number or "-") for number in (row.allowed, row.swapped)]
        cells.append(f"[red]{row.denied}[/]" if row.denied else "-")
        if reports:
            cells.append(f"[yellow]{row.reported}[/]" if row.reported else "-")
        table.add_row(escape(host), escape(rule), *cells)
    if len(items) > MAX_ROWS:
        table.add_row(f"[dim]and {len(items) - MAX_ROWS} more[/]", "", "", "", "")
    return table


def _describe(http: dict[str, Any], host: str) -> str:
    method = _plain(http.get(events.FIELD_METHOD, "connection to"))
    port = http.get(events.FIELD_PORT)
    place = host if port in (None, 443) else f"{host}:{port}"
    text = f"{method} {place}{_plain(http.get(events.FIELD_PATH, ''))}"
    return text if len(text) <= _MAX_REQUEST_CHARACTERS else f"{text[:_MAX_REQUEST_CHARACTERS]}…"


def _plain(text: object) -> str:
    """Make what an agent wrote safe to show: no control sequence may reach the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(text))
