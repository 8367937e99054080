"""What a person reads: messages on standard error, problems without tracebacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.policy.load import Problem

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False, soft_wrap=True)


@dataclass
class UsageProblem(Exception):  # noqa: N818 - it is shown to a person as a problem, not raised at code
    """Wrong usage or configuration: shown as it is, exit code 2."""

    message: str
    hint: str | None = None
    problems: Sequence[Problem] = ()

    def __str__(self) -> str:
        return self.message


def report(problem: UsageProblem) -> None:
    """Show a problem on standard error."""
    stderr.print(f"[bold red]understudy:[/] {escape(problem.message)}")
    for found in problem.problems:
        print_policy_problem(stderr, found)
    if problem.hint:
        stderr.print(f"[dim]{escape(problem.hint)}[/]")


def print_policy_problem(console: Console, problem: Problem) -> None:
    """One problem of a policy: place, field, sentence."""
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    colour = "red" if problem.severity == "error" else "yellow"
    field = f"{problem.field}: " if problem.field else ""
    console.print(
        f"[{colour}]{problem.severity}[/] [bold]{escape(place)}[/] "
        f"{escape(field)}{escape(problem.message)}"
    )
