"""What every command has in common."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.cli.conftest import UNDERSTUDY, Command

from understudy.cli.app import COMMANDS, app
from understudy.cli.hints import HINTS
from understudy.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs" / "commands.md"
HEAVY = ("mitmproxy.proxy", "mitmproxy.http", "aiohttp", "understudy.engine.master")


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command of the tree that does something, with its full name."""
    context = typer.Context(command)
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for child in command.list_commands(context):
        yield from walk(command.get_command(context, child), f"{name} {child}")


ALL = dict(walk(typer.main.get_command(app), "understudy"))


def test_every_command_of_the_table_is_there(understudy: Command) -> None:
    ran = understudy("--help")
    assert ran.code == 0
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", ran.out, re.MULTILINE)


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example_in_eighty_columns(
    understudy: Command, name: str
) -> None:
    ran = understudy(*name.split()[1:], "--help")
    assert ran.code == 0
    assert f"Example: {name}" in re.sub(r"\s+", " ", ran.out).replace('eval "$(', "")
    assert max(map(len, ran.out.splitlines())) <= 80


def sections_of_docs() -> dict[str, str]:
    """The text below each command's heading."""
    _, *parts = re.split(r"^## `([^`]+)`$", DOCS.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", ALL)
def test_docs_have_every_command_and_option(name: str) -> None:
    section = sections_of_docs()[name]
    for parameter in ALL[name].params:
        if parameter.param_type_name != "option" or parameter.name == "help":
            continue
        for option in parameter.opts:
            assert re.search(rf"`{re.escape(option)}[` ]", section), option
        if parameter.envvar:
            assert f"`{parameter.envvar}`" in DOCS.read_text("utf-8")


def test_docs_have_no_command_that_does_not_exist() -> None:
    assert list(sections_of_docs()) == list(ALL)


def test_docs_have_no_option_that_does_not_exist() -> None:
    known = {option for command in ALL.values() for each in command.params for option in each.opts}
    written = set(re.findall(r"`(--[a-z-]+)", DOCS.read_text("utf-8")))
    assert written <= known | {"--help"}


def test_an_unknown_command_is_wrong_usage(understudy: Command) -> None:
    ran = understudy("bogus")
    assert ran.code == 2
    assert "No such command 'bogus'" in ran.err


def test_checking_a_policy_imports_no_proxy_engine(policy_file: Path) -> None:
    script = (
        "import sys, json\nfrom understudy.cli import main\n"
        f"sys.argv = ['understudy', 'check', {str(policy_file)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in modules if name.startswith(HEAVY)]


@pytest.mark.parametrize("arguments", [["--help"], ["version"]])
def test_small_commands_are_quick(arguments: list[str]) -> None:
    def measure() -> float:
        # Processor time: how long it takes on a busy machine says nothing about it.
        process = subprocess.Popen([UNDERSTUDY, *arguments], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    assert min(measure() for _ in range(5)) < 0.5


@pytest.mark.parametrize("name", ALL)
def test_policies_in_examples_are_there(name: str) -> None:
    root = DOCS.parents[1]
    for path in re.findall(r"policies/[a-z-]+\.yaml", ALL[name].epilog or ""):
        assert (root / path).is_file()


def test_version_names_all_three(understudy: Command) -> None:
    plain, as_json = understudy("version"), understudy("version", "--json")
    versions = json.loads(as_json.out)
    assert set(versions) == {"understudy", "mitmproxy", "python"}
    for name, number in versions.items():
        assert re.search(rf"^{name} +{re.escape(number)}$", plain.out, re.MULTILINE)


def test_every_denial_has_a_hint_for_the_operator() -> None:
    assert set(HINTS) == set(Reason) - {Reason.ALLOWED}
    assert all(len(hint) <= 80 and hint.endswith(".") for hint in HINTS.values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk to test with")
@pytest.mark.parametrize("shell", ["{} version >/dev/full", "{} version --json >/dev/full"])
def test_output_that_cannot_be_written_gives_a_sentence(shell: str) -> None:
    done = subprocess.run(
        ["sh", "-c", shell.format(UNDERSTUDY)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "understudy: No space left on device\n"


def test_standard_output_may_be_closed() -> None:
    script = f"{UNDERSTUDY} version >&-; {UNDERSTUDY} version --json >&-"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
