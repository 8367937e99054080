"""The console script: a Typer application whose commands are imported when they are called."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import typer
from typer.core import TyperGroup

from understudy.cli.console import UsageProblem, report

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {
    "run": "serve as a sidecar",
    "exec": "run one command behind a proxy of its own",
    "check": "validate a policy",
    "explain": "say what the policy makes of a request",
    "env": "print the environment that a sandbox needs",
    "ca": "make, show and export the certificate authority",
    "demo": "see it work, offline, in a few seconds",
    "version": "print versions",
}
"""Every command and its one line of help; each lives in ``understudy.cli.<name>_command``."""


class LazyGroup(TyperGroup):
    """Loads a command's module when it is needed: `check` never imports the proxy engine."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module: Any = import_module(f"understudy.cli.{cmd_name}_command")
        command: click.Command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A forward proxy that keeps real keys out of AI agents' hands.",
)


@app.callback()
def _understudy() -> None:
    """A forward proxy that keeps real keys out of AI agents' hands."""


def main() -> None:
    """Run the command line: exit 0 good, 1 the answer is no, 2 wrong usage or configuration."""
    run: Callable[[], None] = app
    try:
        run()
    except UsageProblem as problem:
        report(problem)
        sys.exit(2)
