"""The command line, in this process and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy.cli import main

UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
POLICY = """\
version: 1
connections:
  openai: {provider: openai, secret: {env: OPENAI_API_KEY}}
  bot: {provider: github, secret: {env: GH_TOKEN}}
allow:
  - {name: gpt, connection: openai}
  - {name: repos, connection: bot, methods: [GET, POST], paths: [/repos/acme/**]}
deny:
  - {name: no-deletes, hosts: [api.github.com], methods: [DELETE]}
"""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("UNDERSTUDY_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    for name in ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    # A command that is run in this process must not close this process.
    monkeypatch.setattr("understudy.engine.process.harden", lambda: 0o022)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def understudy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the console script does."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            main()
        code = exit_info.value.code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ran(code if isinstance(code, int) else int(code is not None), *printed)

    return run


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return file


def run_process(*arguments: object, environ: dict[str, str] | None = None) -> Ran:
    """Run the console script with a clean environment."""
    base = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(
        [UNDERSTUDY, *map(str, arguments)],
        env=base | (environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)
