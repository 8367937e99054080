"""The table of docs/threat-model.md, from the tests: ``make threat-model`` writes it.

A test says with ``@pytest.mark.attack("name")`` which of these attacks it is about.
"""

from __future__ import annotations

import ast
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "threat-model.md"
BEGIN = "<!-- written by `make threat-model` from the tests -->\n"
END = "<!-- end of what is written -->\n"

ATTACKS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("table.yaml").read_text("utf-8")
)
"""By name: what the agent ``does``, and what ``happens``."""


def find_marks() -> dict[str, list[str]]:
    """The names of the tests about each attack, by file and place; unknown attacks included."""
    found: dict[str, list[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for attack in attacks_of(node):
                    found.setdefault(attack, []).append(node.name)
    return found


def attacks_of(test: ast.FunctionDef) -> Iterator[str]:
    """What a test's ``pytest.mark.attack`` names."""
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.attack":
            yield from (ast.literal_eval(argument) for argument in decorator.args)


def make_table() -> str:
    """The table as it must stand in the page."""
    marks = find_marks()
    rows = ["| the agent | what happens | tests |", "| --- | --- | --- |"]
    for name, attack in ATTACKS.items():
        tests = ", ".join(f"`{test}`" for test in marks.get(name, []))
        rows.append(f"| {attack['does']} | {attack['happens']} | {tests} |")
    return "\n".join(rows) + "\n"


def read_table() -> str:
    """What stands between the page's markers."""
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]


def write_table() -> None:
    """Put the table into the page."""
    before, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    PAGE.write_text(before + begin + make_table() + end + after, "utf-8")


class _Count:
    """Counts the cases that pytest collects for each attack, on each engine."""

    def __init__(self) -> None:
        self.variants = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.variants = sum(1 for item in session.items if item.get_closest_marker("attack"))


def main() -> None:
    """Write the table; say how many attacks, tests and variants there are."""
    write_table()
    count = _Count()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--collect-only", "-qq", str(TESTS)], plugins=[count])
    tests = sum(map(len, find_marks().values()))
    sys.stdout.write(f"{len(ATTACKS)} attacks, {tests} tests, {count.variants} variants\n")


if __name__ == "__main__":
    main()
