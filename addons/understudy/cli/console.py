"""What a person reads: messages on standard error, problems without tracebacks."""

from __future__ import annotations

import logging
import os
import select
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from understudy.policy.problems import Problem

_WIDTH_WITHOUT_TERMINAL = 80


class Output:
    """A console of rich's, imported when there is something to lay out: serving needs none."""

    def __init__(self, *, stderr: bool) -> None:
        self._is_stderr = stderr

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich's console does; on standard error, what can be."""
        # On a full disk, say, nobody can be told.
        with suppress(*([OSError] if self._is_stderr else [])):
            self._console.print(*objects, **options)

    @cached_property
    def _console(self) -> Console:
        from rich.console import Console

        # Rich reads COLUMNS itself; what is no terminal gets the width that people read logs in.
        stream = sys.stderr if self._is_stderr else sys.stdout
        is_terminal = stream is not None and stream.isatty()
        width = None if is_terminal or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
        return Console(stderr=self._is_stderr, highlight=False, emoji=False, width=width)


stderr = Output(stderr=True)
stdout = Output(stderr=False)


def say(text: str, label: str = "", colour: str | None = None) -> None:
    """One line on standard error, as long as it is, its label in colour on a terminal."""
    colours = False if os.environ.get("NO_COLOR") else None  # None: as the terminal likes
    with suppress(OSError):
        typer.echo(typer.style(label, fg=colour) + text, err=True, color=colours)


class _PassingHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error where there is room; a pipe that nobody reads holds nothing up."""

    def emit(self, record: logging.LogRecord) -> None:
        poll = select.poll()
        poll.register(self.stream, select.POLLOUT)
        if poll.poll(0):
            super().emit(record)


def log_to_stderr() -> None:
    """Show this package's own log, which mitmproxy's master would swallow otherwise.

    Only ours: what libraries log may quote requests.
    """
    logger = logging.getLogger("understudy")
    if not logger.handlers:
        handler = _PassingHandler() if sys.stderr is not None else logging.NullHandler()
        handler.setFormatter(logging.Formatter("understudy: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


@dataclass
class UsageProblem(Exception):  # noqa: N818 - it is shown to a person as a problem, not raised at code
    """Wrong usage or configuration: shown as it is, exit code 2."""

    message: str
    hint: str | None = None
    problems: Sequence[Problem] = ()

    def __str__(self) -> str:
        return self.message


def make_app(help_text: str | None = None) -> typer.Typer:
    """A Typer application in the house's manner: plain help that fits any terminal."""
    return typer.Typer(
        add_completion=False,
        help=help_text,
        no_args_is_help=help_text is not None,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def report(problem: UsageProblem) -> None:
    """Show a problem on standard error."""
    from rich.markup import escape

    # Lines are not folded: a path that is cut in two cannot be copied.
    stderr.print(f"[bold red]understudy:[/] {escape(problem.message)}", soft_wrap=True)
    for found in problem.problems:
        print_policy_problem(stderr, found)
    if problem.hint:
        stderr.print(f"[dim]{escape(problem.hint)}[/]", soft_wrap=True)


def print_policy_problem(console: Output, problem: Problem) -> None:
    """One problem of a policy: place, field, sentence."""
    from rich.markup import escape

    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    colour = "red" if problem.severity == "error" else "yellow"
    field = f"{problem.field}: " if problem.field else ""
    console.print(
        f"[{colour}]{problem.severity}[/] [bold]{escape(place)}[/] "
        f"{escape(field)}{escape(problem.message)}",
        soft_wrap=True,
    )


def print_json(document: object) -> None:
    """Machine-readable output: one JSON document, ASCII, for scripts."""
    import json

    typer.echo(json.dumps(document, indent=2))
