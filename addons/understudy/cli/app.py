"""The console script: a Typer application whose commands are imported when they are called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from understudy.cli.console import UsageProblem, report

if TYPE_CHECKING:
    from typer._click import Command, Context

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

    def list_commands(self, ctx: Context) -> list[str]:
        """Every command, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Import one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module: Any = import_module(f"understudy.cli.{cmd_name}_command")
        command: Command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 good, 1 the answer is no, 2 wrong usage or configuration.",
)


@app.callback()
def _understudy() -> None:
    """A forward proxy that keeps real keys out of AI agents' hands."""


def _hold_standard_descriptors() -> None:
    """See that numbers 0 to 2 belong to nothing else, where the caller has closed them.

    The next file or connection would get them, and with them what is meant for standard output:
    the audit. Nothing can be written to what stands there instead.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # gets the lowest number that is free


def main() -> None:
    """Run the command line: exit 0 good, 1 the answer is no, 2 wrong usage or configuration."""
    try:
        _hold_standard_descriptors()
        app()
    except UsageProblem as problem:
        report(problem)
        sys.exit(2)
    except OSError as error:
        # A full disk behind standard output, for example; whoever can help needs no traceback.
        place = f"{error.filename}: " if error.filename else ""
        report(UsageProblem(f"{place}{error.strerror or error}"))
        sys.exit(2)
