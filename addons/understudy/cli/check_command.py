"""`understudy check`: is this policy good?"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from understudy.cli import options
from understudy.cli.console import make_app, print_json, print_policy_problem, stdout

if TYPE_CHECKING:
    from understudy.policy.load import Loaded
    from understudy.policy.problems import Problem

app = make_app()


@app.command(epilog="Example: understudy check --strict policies/llm-agent.yaml")
def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A policy file, or a folder of *.yaml.", show_default=False
        ),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Validate a policy and print every problem with its file and line.

    Exit code 0: good; 1: it has errors, or warnings with --strict. No secret is read.
    """
    from understudy.policy.load import PolicyError, load

    options.check_policy_exists(path)
    loaded: Loaded | None
    try:
        loaded = load(path, os.environ)
        problems = loaded.warnings
    except PolicyError as error:
        loaded, problems = None, error.problems
    good = loaded is not None and not (strict and problems)
    if as_json:
        print_json(_document(loaded, problems, good=good))
    else:
        _print(path, loaded, problems, good=good)
    raise typer.Exit(0 if good else 1)


def _document(
    loaded: Loaded | None, problems: tuple[Problem, ...], *, good: bool
) -> dict[str, object]:
    policy = loaded.policy if loaded else None
    return {
        "good": good,
        "digest": policy.digest if policy else None,
        "mode": policy.mode if policy else None,
        "problems": [asdict(problem) for problem in problems],
    }


def _print(path: Path, loaded: Loaded | None, problems: tuple[Problem, ...], *, good: bool) -> None:
    for problem in problems:
        print_policy_problem(stdout, problem)
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    found = ", ".join(
        count_of(number, what)
        for number, what in ((errors, "error"), (warnings, "warning"))
        if number
    )
    if loaded is None:
        stdout.print(f"[red]{escape(str(path))} cannot be used:[/] {found}", soft_wrap=True)
        return
    if not good:
        stdout.print(
            f"[red]{escape(str(path))} fails, because of --strict:[/] {found}", soft_wrap=True
        )
        return
    policy = loaded.policy
    facts = ", ".join(
        (
            f"{policy.mode} mode",
            count_of(len(policy.connections), "connection"),
            count_of(len({rule.name for rule in policy.allow}), "allow rule"),
            count_of(len({rule.name for rule in policy.deny}), "deny rule"),
        )
    )
    state = f"[yellow]can be used, with {found}:[/]" if found else "[green]is good:[/]"
    stdout.print(f"{escape(str(path))} {state} {facts}", soft_wrap=True)


def count_of(number: int, what: str) -> str:
    """``1 rule``, ``2 rules``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
