"""The plot of a run: small panels of bars, as SVG that reads on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.benchmarks.load import Numbers
from tests.benchmarks.report import Results

WIDTH = 960
COLUMNS = 2
PANEL_WIDTH = WIDTH // COLUMNS
LABEL_WIDTH = 205
VALUE_WIDTH = 85
ROW = 22
BAR = 13
TITLE = 46
MARGIN = 14

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600; fill: #24292f }
.value { font-variant-numeric: tabular-nums }
.peer { fill: #afb8c1 }
.own { fill: #2f6fdb }
.own-label { fill: #24292f; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 }
  .title, .own-label { fill: #e6edf3 }
  .peer { fill: #4a525c }
  .own { fill: #58a0ff }
}
"""


@dataclass(frozen=True)
class Panel:
    """One measurement, a bar for each subject."""

    title: str
    measurement: str
    key: str
    scale: float
    show: Callable[[float], str]
    logarithmic: bool = False


def whole(unit: str = "") -> Callable[[float], str]:
    """A number without digits behind the point, thousands apart."""
    return lambda value: f"{value:,.0f}".replace(",", "\u202f") + unit


def milliseconds(value: float) -> str:
    """Seconds from a thousand on."""
    return f"{value:.1f} ms" if value < 100 else f"{value / 1000:.1f} s"


PANELS = (
    Panel("Requests a second, 16 clients", "requests, 16 clients", "per_second", 1, whole()),
    Panel(
        "Processor time a request (less is better)",
        "requests, 16 clients",
        "cpu_each",
        1e6,
        whole(" µs"),
    ),
    Panel(
        "New connections a second, 4 clients",
        "new connections, 4 clients",
        "per_second",
        1,
        whole(),
    ),
    Panel(
        "Event lag p99, 300 streams × 100/s (less is better, log scale)",
        "events",
        "p99",
        1e3,
        milliseconds,
        logarithmic=True,
    ),
    Panel("Download of 1 GB", "download", "per_second", 1e-6, whole(" MB/s")),
    Panel("Idle memory (less is better)", "idle", "rss", 1, whole(" MB")),
)


def draw(results: Results) -> str:
    """The whole image; the load without a proxy is no bar, as it is no proxy."""
    subjects = {name: rows for name, rows in results.items() if name != "no proxy"}
    panel_height = TITLE + ROW * len(subjects) + MARGIN
    height = panel_height * math.ceil(len(PANELS) / COLUMNS)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">'
        ),
        "<title>Understudy beside other proxies, measured in one run</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, panel in enumerate(PANELS):
        x = PANEL_WIDTH * (number % COLUMNS)
        y = panel_height * (number // COLUMNS)
        parts += [f'<g transform="translate({x},{y})">', *draw_panel(panel, subjects), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_panel(panel: Panel, subjects: dict[str, dict[str, Numbers]]) -> list[str]:
    """A title and the bars, the longest as wide as there is room."""
    values = {
        name: rows[panel.measurement][panel.key] * panel.scale
        for name, rows in subjects.items()
        if panel.key in rows.get(panel.measurement, {})
    }
    lengths = {name: length(value, panel) for name, value in values.items()}
    longest = max(lengths.values(), default=0) or 1
    room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN
    parts = [f'<text class="title" x="{MARGIN}" y="26">{escape(panel.title)}</text>']
    for number, name in enumerate(subjects):
        y = TITLE + ROW * number
        own = name.startswith("understudy")
        label = ' class="own-label"' if own else ""
        parts.append(
            f'<text{label} x="{LABEL_WIDTH}" y="{y + BAR - 2}" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        width = max(room * lengths.get(name, 0) / longest, 1)
        text = panel.show(values[name]) if name in values else "–"
        parts += [
            (
                f'<rect class="{"own" if own else "peer"}" x="{LABEL_WIDTH + 8}" y="{y}" '
                f'width="{width:.1f}" height="{BAR}" rx="2"/>'
            ),
            (
                f'<text class="value" x="{LABEL_WIDTH + 14 + width:.1f}" y="{y + BAR - 2}">'
                f"{escape(text)}</text>"
            ),
        ]
    return parts


def length(value: float, panel: Panel) -> float:
    """Proportional, or by decades from a tenth on."""
    return math.log10(max(value, 0.1) * 10) if panel.logarithmic else value
