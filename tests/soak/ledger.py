"""What the clients did, held against what the audit says they did: nothing missing, nothing extra.

A request is known on every side by a mark in its path. What never becomes a request has none;
such actions are counted by what the audit must say about them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

MARK = re.compile(r"soak[0-9a-f]{8}")
VERDICTS = frozenset({"request.decided", "tunnel.denied", "connection.rejected"})
MAX_SHOWN = 8
COUNTED = re.compile(rb"(?m)^understudy_(requests|hook_errors)_total(?:\{[^}]*\})? ([0-9.e+]+)$")

type Line = dict[str, Any]
type Refusal = tuple[str, str, str | None]
"""(event, reason, host) of a refusal that has no mark."""


def bytes_of(mark: str, size: int) -> bytes:
    """The body that belongs to a request: known to both sides, the same for no two requests."""
    seed = sha256(mark.encode()).hexdigest().encode()
    return (seed * (size // len(seed) + 1))[:size]


@dataclass(slots=True)
class Entry:
    """One request, as its client and the upstreams know it."""

    mark: str
    kind: str
    reasons: frozenset[str]
    """What the verdict may be; more than one where the policy or a secret changes meanwhile."""
    ends: frozenset[str | None]
    """The reasons with which it may end once allowed; None for an answer that arrives whole."""
    many: bool = False
    """The client makes as many requests of it as it likes: the upstream says how many."""
    at_most_seen: int = 1
    """How often the upstream may get one allowed request: twice only where it breaks a kept
    connection before it answers, and the request can be repeated."""
    status: int | None = None
    """What the client got; None where it got no answer or did not tell."""
    denial: str | None = None
    """The reason that the client was told."""
    request_id: str | None = None
    """The id that the client was told with a denial."""
    failure: str | None = None
    """Why the client holds its answer for wrong."""
    concluded: bool = False
    """The client has said how it went."""
    seen: int = 0
    """How many requests with this mark reached an upstream."""


@dataclass
class Ledger:
    """Every request and every action that is none."""

    entries: dict[str, Entry] = field(default_factory=dict)
    refusals: Counter[Refusal] = field(default_factory=Counter)
    offences: list[str] = field(default_factory=list)
    """What an upstream or a client saw that nobody may ever see."""
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that were injected, by kind."""

    def open(
        self,
        kind: str,
        *,
        reasons: Iterable[str] = ("allowed",),
        ends: Iterable[str | None] = (None,),
        many: bool = False,
        at_most_seen: int = 1,
    ) -> Entry:
        """Begin a request; its mark goes into the path."""
        mark = f"soak{len(self.entries):08x}"
        entry = Entry(mark, kind, frozenset(reasons), frozenset(ends), many, at_most_seen)
        self.entries[mark] = entry
        return entry

    def refuse(self, event: str, reason: str, host: str | None) -> None:
        """Note an action that must leave one line and is no request."""
        self.refusals[event, reason, host] += 1

    def note_seen(self, target: str, place: str) -> Entry | None:
        """An upstream got a request."""
        mark = MARK.search(target)
        entry = self.entries.get(mark[0]) if mark else None
        if entry is None:
            self.offences.append(f"{place} got a request that no client made: {target[:200]}")
            return None
        entry.seen += 1
        return entry

    @property
    def requests(self) -> int:
        """How many actions there were."""
        return len(self.entries) + self.refusals.total()


@dataclass
class Findings:
    """What was broken, a sentence each, by promise; and how much was looked at."""

    lost: list[str] = field(default_factory=list)
    """Requests without their answer, or without their line."""
    untrue: list[str] = field(default_factory=list)
    """Lines that say something else than what happened, or that are extra."""
    decided: int = 0
    finished: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


def compare(ledger: Ledger, lines: Iterable[Line]) -> Findings:
    """Hold the ledger against every line of the audit, in order."""
    findings = Findings()
    decided: dict[str, list[Line]] = {}
    finished: dict[str, Line] = {}
    open_ids: set[str] = set()
    refusals: Counter[Refusal] = Counter()
    for line in lines:
        event = line["event"]
        if event == "request.finished":
            findings.finished += 1
            findings.ends[line.get("reason", "whole")] += 1
            if line["request_id"] not in open_ids:
                findings.untrue.append(f"finished without or before its verdict: {line}")
            open_ids.discard(line["request_id"])
            finished[line["request_id"]] = line
        elif event in VERDICTS:
            findings.decided += 1
            findings.reasons[line["reason"]] += 1
            mark = MARK.search(line.get("http", {}).get("path", ""))
            if mark is None:
                refusals[event, line["reason"], line.get("http", {}).get("host")] += 1
                continue
            decided.setdefault(mark[0], []).append(line)
            if line["verdict"] == "allow":
                open_ids.add(line["request_id"])
    for request_id in open_ids:
        findings.lost.append(f"request {request_id} was allowed and has no end in the audit")
    _compare_refusals(ledger.refusals, refusals, findings)
    for mark in decided.keys() - ledger.entries.keys():
        findings.untrue.append(f"the audit tells of a request that no client made: {mark}")
    for mark, entry in ledger.entries.items():
        _compare_entry(entry, decided.get(mark, []), finished, findings)
    return findings


def _compare_refusals(made: Counter[Refusal], told: Counter[Refusal], findings: Findings) -> None:
    for refusal in made.keys() | told.keys():
        difference = made[refusal] - told[refusal]
        if difference > 0:
            findings.lost.append(
                f"{made[refusal]} × {refusal} happened, the audit has {told[refusal]}"
            )
        elif difference < 0:
            findings.untrue.append(
                f"{made[refusal]} × {refusal} happened, the audit has {told[refusal]}"
            )


def _compare_entry(
    entry: Entry, verdicts: list[Line], finished: dict[str, Line], findings: Findings
) -> None:
    name = f"{entry.kind} {entry.mark}"
    if not entry.concluded:
        findings.lost.append(f"{name}: its client never came back")
    if entry.failure is not None:
        findings.lost.append(f"{name}: {entry.failure}")
    allowed = [line for line in verdicts if line["verdict"] == "allow"]
    if not verdicts:
        findings.lost.append(f"{name}: no verdict in the audit")
    if not entry.many and len(verdicts) > 1:
        findings.untrue.append(f"{name}: {len(verdicts)} verdicts on one request")
    _compare_seen(entry, len(allowed), name, findings)
    for line in verdicts:
        if line["reason"] not in entry.reasons:
            findings.untrue.append(f"{name}: decided {line['reason']}, not {sorted(entry.reasons)}")
        if entry.many:
            continue
        if line["verdict"] == "deny":
            _compare_denial(entry, line, name, findings)
        elif (end := finished.get(line["request_id"])) is not None:
            _compare_end(entry, end, name, findings)


def _compare_seen(entry: Entry, allowed: int, name: str, findings: Findings) -> None:
    """One decision is one upstream request; no decision is none."""
    if entry.many:
        if entry.seen != allowed:
            findings.untrue.append(f"{name}: {allowed} allowed, the upstream got {entry.seen}")
    elif entry.seen > entry.at_most_seen * allowed:
        findings.untrue.append(f"{name}: {allowed} allowed, the upstream got {entry.seen}")
    elif None in entry.ends and len(entry.ends) == 1 and entry.seen < allowed:
        findings.lost.append(f"{name}: allowed, and the upstream never got it")


def _compare_denial(entry: Entry, line: Line, name: str, findings: Findings) -> None:
    if entry.denial is not None and entry.denial != line["reason"]:
        findings.untrue.append(f"{name}: told {entry.denial}, audited {line['reason']}")
    if entry.request_id is not None and entry.request_id != line["request_id"]:
        findings.untrue.append(f"{name}: the client has another request id than the audit")
    if entry.status is not None and entry.denial is None:
        findings.untrue.append(f"{name}: audited {line['reason']}, answered {entry.status}")


def _compare_end(entry: Entry, end: Line, name: str, findings: Findings) -> None:
    if end.get("reason") not in entry.ends:
        findings.untrue.append(f"{name}: it ended with {end.get('reason')}: {end}")
    if entry.status is not None and entry.status != end.get("status"):
        findings.untrue.append(f"{name}: got {entry.status}, audited {end.get('status')}")
    if entry.denial is not None and entry.denial != end.get("reason"):
        findings.untrue.append(f"{name}: told {entry.denial}, audited {end.get('reason')}")


def judge_metrics(page: bytes, findings: Findings) -> list[str]:
    """Hold the last page of metrics against the audit: as many verdicts, and no hook failed."""
    samples = [(name, float(value)) for name, value in COUNTED.findall(page)]
    verdicts = sum(value for name, value in samples if name == b"requests")
    errors = sum(value for name, value in samples if name == b"hook_errors")
    found = []
    if verdicts != findings.decided:
        found.append(f"{verdicts} verdicts in the metrics, {findings.decided} in the audit")
    if errors:
        found.append(f"{errors} errors in hooks")
    return found
