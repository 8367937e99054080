"""curl to an upstream that is far away: ``python -m tests.benchmarks.roundtrip``.

With the proxy and without it, between the same two network namespaces; ``--write`` puts the table
into docs/benchmarks.md. Needs Linux, root and curl.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.support.distance import Distance, Unavailable, run_apart
from tests.support.short_lived import Trip, open_road

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- distance -->\n", "<!-- /distance -->"
ONE_WAY_MS = 40
ROADS = 5
"""A proxy of its own each, so that there is a first request."""
TRIPS = 5
"""On each road, of each kind."""

Trips = dict[str, list[Trip]]


def main() -> None:
    """Measure and print; write the document if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    try:
        means, trips = run_apart(ONE_WAY_MS, measure)
    except Unavailable as reason:
        sys.stdout.write(f"The distance is not measured: {reason}\n")
        return
    text = render(means, trips)
    sys.stdout.write(f"{text}\n")
    if options.write:
        page = PAGE.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after}", "utf-8")


def measure(distance: Distance) -> tuple[str, Trips]:
    """Let curl travel; gives what makes the delay, and the trips by their kind."""
    trips: Trips = {"no proxy": [], "first through the proxy": [], "every later one": []}
    direct, first, later = trips.values()
    for _ in range(ROADS):
        with tempfile.TemporaryDirectory() as folder, open_road(Path(folder), distance) as road:
            first.append(road.go_through_proxy())
            for _ in range(TRIPS):
                direct.append(road.go_directly())
                later.append(road.go_through_proxy())
    return distance.means, trips


def render(means: str, trips: Trips) -> str:
    """A table in Markdown."""
    lines = [
        "| curl | round trips to the upstream | median | quickest |",
        "| --- | ---: | ---: | ---: |",
    ]
    for kind, made in trips.items():
        seconds = [trip.seconds for trip in made]
        counted = " or ".join(map(str, sorted({trip.round_trips for trip in made})))
        middle, least = f"{median(seconds) * 1000:.0f} ms", f"{min(seconds) * 1000:.0f} ms"
        lines.append(f"| {kind} | {counted} | {middle} | {least} |")
    count = len(trips["no proxy"])
    return "\n".join(
        [*lines, "", f"{2 * ONE_WAY_MS} ms by {means}; {count} runs, {ROADS} first ones."]
    )


if __name__ == "__main__":
    main()
