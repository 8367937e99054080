"""What the demo puts on the screen: three columns a call, the audit, the checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from understudy.cli.console import Output

KEY_CHARACTERS = 16
WIDTH = 80


@dataclass
class Checks:
    """What was looked at, and whether it was as it should be."""

    results: list[tuple[str, bool]] = field(default_factory=list)

    def expect(self, promise: str, holds: object) -> None:
        """Note one promise and whether it holds."""
        self.results.append((promise, bool(holds)))

    @property
    def good(self) -> bool:
        """Whether all hold."""
        return all(holds for _, holds in self.results)


def show_title(console: Output | Console, title: str, text: str) -> None:
    """A rule with a title, and a sentence below it."""
    console.print()
    console.print(Rule(f"[bold]{escape(title)}[/]", align="left", style="dim"), width=WIDTH)
    console.print(f"[dim]{escape(text)}[/]", width=WIDTH)


def show_columns(console: Output | Console, columns: dict[str, Sequence[str]]) -> None:
    """Lines of markup side by side, under their titles."""
    table = Table(box=None, pad_edge=False, padding=(1, 2, 0, 0), width=WIDTH)
    for title in columns:
        table.add_column(f"[bold]{escape(title)}[/]", ratio=1, overflow="fold")
    table.add_row(*("\n".join(lines) for lines in columns.values()))
    console.print(table)


def show_lines(console: Output | Console, lines: Sequence[str]) -> None:
    """Audit lines, folded to the screen's width."""
    for number, line in enumerate(lines):
        if number:
            console.print()
        console.print(f"[dim]{escape(line)}[/]", width=WIDTH, overflow="fold")


def show_checks(console: Output | Console, checks: Checks) -> None:
    """Every promise with its mark."""
    for promise, holds in checks.results:
        mark = "[green]ok  [/]" if holds else "[bold red]FAIL[/]"
        console.print(f"{mark} {escape(promise)}", width=WIDTH)


def where(method: str, url: str) -> list[str]:
    """Method, host and path, each on a line of its own."""
    host, slash, path = url.removeprefix("https://").partition("/")
    return [method, escape(f"https://{host}"), escape(slash + path)]


def placeholder(text: str) -> str:
    """A placeholder, cut to what fits in a column."""
    return f"[yellow]{escape(text[:KEY_CHARACTERS])}…[/]"


def key(text: str) -> str:
    """A pretend real key."""
    return f"[green]{escape(text)}[/]"
