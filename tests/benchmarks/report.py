"""The tables of a run, in Markdown."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.load import Numbers
from tests.benchmarks.subjects import TWO_WORKERS

Results = dict[str, dict[str, Numbers]]
"""Subject → measurement → its numbers."""

Cell = Callable[[dict[str, Numbers]], str]


def render(results: Results, notes: list[str]) -> str:
    """All tables, then the notes."""
    base = results["no proxy"]
    parts = [
        table("", results, result_rows(base)),
        table("ratio", own(results), ratio_rows(results)),
        table("busy: subject / load", results, busy_rows(results)),
    ]
    return "\n".join([*filter(None, parts), "\n\n".join(notes)]) + "\n"


def result_rows(base: dict[str, Numbers]) -> dict[str, Cell]:
    """What is measured."""
    one = "requests, 1 client"
    many = "requests, 16 clients"
    varied = "varied requests, 16 clients"
    return {
        "requests/s, 1 client": number(one, "per_second"),
        "requests/s, 16 clients": number(many, "per_second"),
        "processor time a request, 16 clients": number(many, "cpu_each", 1e6, " µs"),
        "the same, every head another": number(varied, "per_second"),
        "processor time of those": number(varied, "cpu_each", 1e6, " µs"),
        "latency p99, 16 clients": number(many, "p99", 1e3, " ms", 2),
        "added latency p50, 1 client": added(one, "p50", base),
        "added latency p99, 1 client": added(one, "p99", base),
        "new connections/s, 4 clients": number("new connections, 4 clients", "per_second"),
        "the same with TLS sessions resumed": number(
            "resumed connections, 4 clients", "per_second"
        ),
        "processor time a new connection": number(
            "new connections, 4 clients", "cpu_each", 1e6, " µs"
        ),
        "processor time a resumed connection": number(
            "resumed connections, 4 clients", "cpu_each", 1e6, " µs"
        ),
        "event lag p50, 300 streams × 100/s": number("events", "p50", 1e3, " ms", 1),
        "event lag p99, 300 streams × 100/s": number("events", "p99", 1e3, " ms", 1),
        "events that came within the time": number("events", "delivered", 100, " %"),
        "download of 1 GB": number("download", "per_second", 1e-6, " MB/s"),
        "the same from a host without a secret": number(
            "download, no secret", "per_second", 1e-6, " MB/s"
        ),
        "processor time a MB": number("download", "cpu_each", 1e12, " µs"),
        "processor time a MB without a secret": number(
            "download, no secret", "cpu_each", 1e12, " µs"
        ),
        "memory for 1 000 idle tunnels": number("tunnels", "rss", 1, " MB"),
        "idle memory (RSS)": number("idle", "rss", 1, " MB"),
        "idle memory (PSS)": number("idle", "pss", 1, " MB"),
        "ready after": number("idle", "ready", 1, " s", 2),
    }


def ratio_rows(results: Results) -> dict[str, Cell]:
    """Understudy over each peer."""
    rows: dict[str, Cell] = {}
    for peer in results:
        if peer == "no proxy" or peer.startswith("understudy"):
            continue
        for label, measurement in (
            ("requests/s, 16 clients", "requests, 16 clients"),
            ("new connections/s", "new connections, 4 clients"),
            ("download", "download"),
        ):
            theirs = results[peer].get(measurement)
            if theirs is not None:
                rows[f"{label} / {peer}'s"] = number(
                    measurement, "per_second", 1 / theirs["per_second"], " ×", 2
                )
        theirs = results[peer].get("requests, 16 clients")
        if theirs is not None:
            rows[f"requests a processor second / {peer}'s"] = frugality(theirs["cpu_each"])
    return rows


def busy_rows(results: Results) -> dict[str, Cell]:
    """How much of a core the subject, and generator and upstream together, took."""
    measurements = dict.fromkeys(name for rows in results.values() for name in rows)
    return {
        name: busy(name)
        for name in measurements
        if any("load_busy" in rows.get(name, {}) for rows in results.values())
    }


def own(results: Results) -> Results:
    """Understudy's columns, on one core as its peers are."""
    return {
        name: rows
        for name, rows in results.items()
        if name.startswith("understudy") and name != TWO_WORKERS
    }


def table(corner: str, results: Results, rows: dict[str, Cell]) -> str:
    """One table without the rows that nobody has; empty where nothing is left."""
    lines = []
    for label, show in rows.items():
        cells = [show(measured) for measured in results.values()]
        if set(cells) - {"–"}:
            lines.append(f"| {label} | {' | '.join(cells)} |\n")
    if not lines:
        return ""
    head = f"| {corner} | {' | '.join(results)} |\n| --- |{' ---: |' * len(results)}\n"
    return head + "".join(lines)


def number(measurement: str, key: str, scale: float = 1, unit: str = "", digits: int = 0) -> Cell:
    """Show one number of one measurement; a dash where the subject has none."""

    def show(measured: dict[str, Numbers]) -> str:
        value = measured.get(measurement, {}).get(key)
        # No proxy uses no processor time of a proxy.
        return f"{value * scale:.{digits}f}{unit}" if value else "–"

    return show


def frugality(theirs: float) -> Cell:
    """Show how many requests a subject serves in the processor time of another's one."""

    def show(measured: dict[str, Numbers]) -> str:
        each = measured.get("requests, 16 clients", {}).get("cpu_each")
        return f"{theirs / each:.2f} ×" if each else "–"

    return show


def added(measurement: str, key: str, base: dict[str, Numbers]) -> Cell:
    """Show what a subject adds to the same load without a proxy."""

    def show(measured: dict[str, Numbers]) -> str:
        if measurement not in measured or measured is base:
            return "–"
        return f"{(measured[measurement][key] - base[measurement][key]) * 1e3:.2f} ms"

    return show


def busy(measurement: str) -> Cell:
    """Show both sides' share of a core."""

    def show(measured: dict[str, Numbers]) -> str:
        numbers = measured.get(measurement)
        if numbers is None or "load_busy" not in numbers:
            return "–"
        return f"{numbers['subject_busy']:.0%} / {numbers['load_busy']:.0%}"

    return show
