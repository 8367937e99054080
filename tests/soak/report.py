"""What a soak says at its end: tables for people, a sentence for every broken promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.soak.gauges import WARM_ROUNDS, Gauges, slope_kilobytes
from tests.soak.ledger import MAX_SHOWN, Findings, Ledger


def render_rounds(samples: Sequence[Gauges]) -> str:
    """The gauges at rest after each round."""
    rows = [
        [
            f"{number}{' (warm-up)' if number <= WARM_ROUNDS else ''}",
            *(f"{value}" for value in (s.requests, s.descriptors, s.threads, s.tasks, s.blocks)),
            f"{s.heap_kilobytes / 1024:.1f}",
            f"{s.rss_kilobytes / 1024:.1f}",
        ]
        for number, s in enumerate(samples, 1)
    ]
    heads = ["round", "requests", "fds", "threads", "tasks", "blocks", "heap MB", "RSS MB"]
    return table(heads, rows)


def render_kinds(ledger: Ledger) -> str:
    """How often what was done."""
    kinds = Counter(entry.kind for entry in ledger.entries.values())
    for (event, reason, _), count in ledger.refusals.items():
        kinds[f"{event} {reason}"] += count
    return table(["requests", ""], [[kind, str(count)] for kind, count in kinds.most_common()])


def render_faults(ledger: Ledger) -> str:
    """How often what went wrong, on purpose."""
    rows = [[fault, str(count)] for fault, count in sorted(ledger.faults.items())]
    return table(["faults injected", ""], rows)


def render_summary(ledger: Ledger, findings: Findings, samples: Sequence[Gauges]) -> str:
    """The numbers that docs/reliability.md quotes."""
    leaks = len(ledger.offences)
    rows = [
        ["actions of clients", str(ledger.requests)],
        ["verdicts in the audit", str(findings.decided)],
        ["ends in the audit", str(findings.finished)],
        ["reasons seen", str(len(findings.reasons))],
        ["faults injected", str(ledger.faults.total())],
        ["requests lost", str(len(findings.lost))],
        ["audit lines untrue or extra", str(len(findings.untrue))],
        ["secrets or placeholders where none may be", str(leaks)],
        ["memory in use, for 100 000 requests", growth(samples, "heap_kilobytes")],
        ["resident memory, for 100 000 requests", growth(samples, "rss_kilobytes")],
    ]
    return table(["in all", ""], rows)


def growth(samples: Sequence[Gauges], name: str) -> str:
    """The slope of a gauge."""
    return f"{slope_kilobytes(samples, name) / 1024:+.1f} MB"


def render_broken(broken: dict[str, list[str]]) -> str:
    """Each broken promise and some of what broke it."""
    lines = []
    for promise, found in broken.items():
        lines.append(f"{'BROKEN' if found else 'kept  '}  {promise}")
        lines += [f"          {sentence[:600]}" for sentence in found[:MAX_SHOWN]]
        if len(found) > MAX_SHOWN:
            lines.append(f"          … and {len(found) - MAX_SHOWN} more")
    return "\n".join(lines) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, numbers to the right."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines) + "\n"
