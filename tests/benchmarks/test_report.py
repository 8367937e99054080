"""What a run writes: complete where a subject is missing or a measurement failed."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.benchmarks.load import Numbers
from tests.benchmarks.plot import draw
from tests.benchmarks.report import Results, render
from tests.benchmarks.subjects import TWO_WORKERS

MANY = "requests, 16 clients"


def requests(per_second: float) -> Numbers:
    return {
        "per_second": per_second,
        "cpu_each": 1 / per_second,
        "p50": 0.001,
        "p99": 0.002,
        "subject_busy": 0.99,
        "load_busy": 0.31,
    }


RESULTS: Results = {
    "no proxy": {MANY: requests(20000)},
    "mitmdump": {MANY: requests(500), "idle": {"rss": 70, "ready": 0.5}},
    "understudy express": {MANY: requests(6000), "events": {"p99": 2.5}},
    TWO_WORKERS: {MANY: requests(9000), "idle": {"pss": 90}},
    "squid": {},
}


def test_every_subject_has_a_cell_in_every_row() -> None:
    text = render(RESULTS, ["Not measured: floor.", "2 cores."])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| requests/s, 16 clients | 20000 | 500 | 6000 | 9000 | – |" in rows
    assert "| idle memory (PSS) | – | – | – | 90 MB | – |" in rows
    # What has more than one core is not held against what has one.
    assert "| requests/s, 16 clients / mitmdump's | 12.00 × |" in rows
    assert "| requests a processor second / mitmdump's | 12.00 × |" in rows
    assert "| requests, 16 clients | 99% / 31% | 99% / 31% | 99% / 31% | 99% / 31% | – |" in rows
    assert text.endswith("Not measured: floor.\n\n2 cores.\n")


def test_plot_is_well_formed_and_names_every_proxy_in_every_panel() -> None:
    image = ElementTree.fromstring(draw(RESULTS))
    texts = [element.text for element in image.iter("{http://www.w3.org/2000/svg}text")]
    assert {texts.count(name) for name in RESULTS} == {0, 6}
    assert texts.count("no proxy") == 0
    assert "6\u202f000" in texts
