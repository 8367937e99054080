"""The soak's judgement can fail: each broken promise is found, and a kept one is not accused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.soak.gauges import ROUNDS, WARM_ROUNDS, Gauges, judge_growth, slope_kilobytes
from tests.soak.ledger import Entry, Ledger, compare, judge_metrics
from tests.soak.stage import MARKER
from tests.soak.wire import Watched

type Lines = list[dict[str, Any]]


def decided(entry: Entry, request_id: str, verdict: str = "allow", **more: Any) -> dict[str, Any]:
    path = f"/soak/answer/{entry.mark}/9"
    line = {"event": "request.decided", "request_id": request_id, "verdict": verdict}
    return line | {"reason": "allowed", "http": {"host": "a.example", "path": path}} | more


def finished(request_id: str, **more: Any) -> dict[str, Any]:
    return {"event": "request.finished", "request_id": request_id, "status": 200} | more


def a_good_run() -> tuple[Ledger, Lines]:
    """An answer, a denial, a broken answer, a clone of two requests, a refused tunnel."""
    ledger = Ledger()
    whole = ledger.open("whole")
    whole.status, whole.seen = 200, 1
    denied = ledger.open("denied", reasons=["path_not_allowed"], ends=())
    denied.status, denied.denial, denied.request_id = 403, "path_not_allowed", "2"
    broken = ledger.open("broken", ends=["upstream_failed"])
    broken.status, broken.denial, broken.seen = 502, "upstream_failed", 1
    clone = ledger.open("clone", many=True)
    clone.seen = 2
    ledger.refuse("tunnel.denied", "host_not_allowed", "evil.example")
    for entry in ledger.entries.values():
        entry.concluded = True
    refused = {"event": "tunnel.denied", "verdict": "deny", "reason": "host_not_allowed"}
    return ledger, [
        {"event": "proxy.ready"},
        decided(whole, "1"),
        finished("1"),
        decided(denied, "2", "deny", reason="path_not_allowed"),
        decided(broken, "3"),
        finished("3", status=502, reason="upstream_failed"),
        decided(clone, "4"),
        decided(clone, "5"),
        finished("5"),
        finished("4", status=401),
        refused | {"http": {"host": "evil.example", "port": 443}},
    ]


def test_a_good_run_breaks_no_promise() -> None:
    findings = compare(*a_good_run())
    assert (findings.lost, findings.untrue) == ([], [])
    assert (findings.decided, findings.finished) == (6, 4)


@pytest.mark.parametrize("missing", range(1, 11))
def test_every_line_that_is_missing_is_found(missing: int) -> None:
    ledger, lines = a_good_run()
    del lines[missing]
    findings = compare(ledger, lines)
    assert findings.lost + findings.untrue


@pytest.mark.parametrize("twice", range(1, 11))
def test_every_line_that_is_there_twice_is_found(twice: int) -> None:
    ledger, lines = a_good_run()
    lines.insert(twice, lines[twice])
    assert compare(ledger, lines).untrue


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (1, {"reason": "path_not_allowed"}),
        (1, {"verdict": "deny"}),
        (1, {"http": {"host": "a.example", "path": "/soak/answer/soakffffffff/9"}}),
        (2, {"status": 502}),
        (2, {"reason": "client_closed"}),
        (3, {"request_id": "9"}),
        (3, {"verdict": "allow"}),
        (5, {"reason": "upstream_timeout"}),
        (10, {"reason": "port_not_allowed"}),
        (10, {"http": {"host": "good.example"}}),
    ],
)
def test_a_line_that_says_something_else_is_found(line: int, change: dict[str, Any]) -> None:
    ledger, lines = a_good_run()
    lines[line] = lines[line] | change
    findings = compare(ledger, lines)
    assert findings.lost + findings.untrue


@pytest.mark.parametrize(
    ("mark", "change"),
    [
        (0, {"seen": 2}),
        (0, {"seen": 0}),
        (0, {"concluded": False}),
        (0, {"failure": "the answer broke off"}),
        (1, {"seen": 1}),
        (1, {"denial": "denied_by_rule"}),
        (2, {"seen": 2}),
        (2, {"status": 200}),
        (3, {"seen": 3}),
    ],
)
def test_an_upstream_or_a_client_that_saw_something_else_is_found(
    mark: int, change: dict[str, Any]
) -> None:
    ledger, lines = a_good_run()
    entry = list(ledger.entries.values())[mark]
    for name, value in change.items():
        setattr(entry, name, value)
    findings = compare(ledger, lines)
    assert findings.lost + findings.untrue


def test_a_request_upstream_that_no_client_made_is_an_offence() -> None:
    ledger, _ = a_good_run()
    ledger.note_seen("/soak/answer/soakffffffff/9", "a.example")
    ledger.note_seen("/", "a.example")
    assert len(ledger.offences) == 2


PAGE = b"""\
# HELP understudy_requests_total Requests.
understudy_requests_total{verdict="allow",reason="allowed",rule="a"} 4.0
understudy_requests_total{verdict="deny",reason="denied_by_rule",rule="b"} 2.0
understudy_hook_errors_total{hook="request"} 0.0
"""


def test_metrics_that_count_what_the_audit_says_are_not_accused() -> None:
    assert judge_metrics(PAGE, compare(*a_good_run())) == []


@pytest.mark.parametrize(
    "page",
    [PAGE.replace(b"4.0", b"5.0"), PAGE.replace(b" 0.0", b" 1.0"), b""],
)
def test_metrics_that_say_something_else_are_found(page: bytes) -> None:
    assert len(judge_metrics(page, compare(*a_good_run()))) == 1


def test_a_secret_that_comes_in_two_pieces_is_found() -> None:
    async def feed(*pieces: bytes) -> int:
        shown: list[None] = []
        reader = Watched(lambda: shown.append(None))
        for piece in pieces:
            reader.feed_data(piece)
        return len(shown)

    secret = f"x-key: {MARKER}0123".encode()
    assert asyncio.run(feed(secret[:12], secret[12:])) == 1
    assert asyncio.run(feed(b"x" * 9, secret, b"y")) >= 1
    assert asyncio.run(feed(secret[:12], b"-", secret[12:])) == 0


FLAT = [
    Gauges(1000 * n, 13, 3, 3, 400_000 + n % 2 * 500, heap_kilobytes=25_000, rss_kilobytes=99_000)
    for n in range(ROUNDS)
]


def growing(**by: int) -> list[Gauges]:
    return [
        replace(sample, **{name: getattr(sample, name) + n * step for name, step in by.items()})
        for n, sample in enumerate(FLAT)
    ]


def test_what_stays_flat_is_not_accused() -> None:
    assert judge_growth(FLAT) == []
    assert slope_kilobytes(FLAT, "rss_kilobytes") == pytest.approx(0)


def test_what_only_the_warm_up_adds_is_not_accused() -> None:
    cold = [replace(s, descriptors=1, tasks=1, blocks=1, rss_kilobytes=1) for s in FLAT]
    assert judge_growth(cold[:WARM_ROUNDS] + FLAT[WARM_ROUNDS:]) == []


LEAKS: dict[str, Callable[[], list[Gauges]]] = {
    "descriptors": lambda: growing(descriptors=1),
    "threads": lambda: growing(threads=1),
    "tasks": lambda: growing(tasks=1),
    "blocks of memory": lambda: growing(blocks=1000),
    "heap": lambda: growing(heap_kilobytes=1000),
    "rss": lambda: growing(rss_kilobytes=8000),
}


@pytest.mark.parametrize("name", LEAKS)
def test_every_leak_is_found(name: str) -> None:
    (found,) = judge_growth(LEAKS[name]())
    assert name in found
