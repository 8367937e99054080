"""A place where programs run as an agent's do: with placeholders, the proxy and its CA only.

What is in it comes from `understudy env` beside a running sidecar, or from `understudy exec`;
nothing else is added but PATH, a home of its own and what the test says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.proxy import Proxy

TIMEOUT_SECONDS = 60
UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
# Writes the environment that the program really has, then becomes the program.
SNAPSHOT = 'env -0 > "$1"; shift; exec "$@"'


@dataclass
class Ran:
    """What a program did."""

    code: int
    stdout: str
    stderr: str
    environ: dict[str, str]
    """The environment that it had."""

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Exchange:
    """One allowed request as the audit tells it: its decision and its end, paired by id."""

    method: str
    path: str
    status: int
    swapped: tuple[tuple[str, str], ...] = ()
    """(name of the secret, where it was put)."""
    connection: str | None = field(default=None, compare=False)


@dataclass
class Sandbox:
    """Runs programs; ``command`` stands before each, ``environ`` is all that they inherit."""

    home: Path
    secrets: Mapping[str, str]
    """Variable of the proxy → real secret. No program may ever see one."""
    environ: dict[str, str]
    audit: Proxy
    command: tuple[str, ...] = ()

    @property
    def _snapshot(self) -> Path:
        return self.home.parent / "environ"

    def start(
        self,
        *command: str | Path,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program with its output in pipes; the caller ends it with :meth:`finish`."""
        wrapped = [*self.command, "sh", "-c", SNAPSHOT, "sh", self._snapshot, *command]
        return subprocess.Popen(
            wrapped,
            env=self.environ | dict(environ or {}),
            cwd=folder or self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *command: str | Path,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        good: bool = True,
    ) -> Ran:
        """Run a program to its end; ``good`` says whether it must succeed or fail."""
        return self.finish(self.start(*command, environ=environ, folder=folder), good=good)

    def finish(self, process: subprocess.Popen[str], *, read: str = "", good: bool = True) -> Ran:
        """Wait for the end; nothing that the program had or left behind may hold a secret."""
        with process:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        ran = Ran(process.returncode, read + stdout, stderr, _read_environ(self._snapshot))
        assert (ran.code == 0) is good, f"{ran}\n{self.audit.verdicts()}"
        for name, secret in self.secrets.items():
            assert secret not in ran.stdout + ran.stderr
            for variable, value in ran.environ.items():
                assert secret not in value, f"{variable} holds {name}"
            for file in (file for file in self.home.rglob("*") if file.is_file()):
                assert secret.encode() not in file.read_bytes(), f"{file} holds {name}"
            assert secret.encode() not in self.audit.audit_file.read_bytes()
            assert ran.environ[name] != secret
        return ran

    def exchanges(self, hosts: Iterable[str] | None = None) -> list[Exchange]:
        """Every allowed request so far, in order, once each has its end in the audit."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            decided = [
                event
                for event in self.audit.events("request.decided")
                if event["verdict"] == "allow" and (hosts is None or event["http"]["host"] in hosts)
            ]
            ends = {end["request_id"]: end for end in self.audit.events("request.finished")}
            if all(event["request_id"] in ends for event in decided):
                return [_pair(event, ends[event["request_id"]]) for event in decided]
            assert time.monotonic() < deadline, f"requests without an end: {decided} {ends}"
            time.sleep(0.01)

    def denials(self) -> list[str]:
        """The reasons of everything that was refused, in order.

        Not the 407 that git and others ask for before they say who they are.
        """
        reasons = [v["reason"] for v in self.audit.verdicts() if v.get("verdict") != "allow"]
        return [reason for reason in reasons if reason != "proxy_auth_required"]


def beside_sidecar(
    proxy: Proxy, home: Path, secrets: Mapping[str, str], token: str | None = None
) -> Sandbox:
    """A sandbox with what `understudy env` prints for a running sidecar that knows ``token``."""
    base = _base(home)
    url = proxy.url.replace("//", f"//agent:{token}@") if token else proxy.url
    printed = subprocess.run(
        [
            *(UNDERSTUDY, "env", "--policy", proxy.policy_file, "--state-dir", proxy.state),
            *("--proxy-url", url, "--format", "json"),
        ],
        env=base,
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIMEOUT_SECONDS,
    ).stdout
    return Sandbox(home, secrets, base | json.loads(printed), proxy)


def inside_exec(proxy: Proxy, home: Path, secrets: Mapping[str, str]) -> Sandbox:
    """A sandbox that `understudy exec` makes anew, proxy included, for each program."""
    command = (
        *(UNDERSTUDY, "exec", "--policy", str(proxy.policy_file)),
        *("--state-dir", str(proxy.state), "--audit", str(proxy.audit_file)),
        *("--engine", proxy.engine, "--"),
    )
    return Sandbox(home, secrets, _base(home) | dict(secrets), proxy, command)


def _base(home: Path) -> dict[str, str]:
    home.mkdir(parents=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}


def _read_environ(snapshot: Path) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in snapshot.read_text().split("\0") if entry)
    return {name: value for name, _, value in pairs}


def _pair(decided: dict[str, Any], finished: dict[str, Any]) -> Exchange:
    swapped = tuple((swap["secret"], swap["location"]) for swap in decided.get("swapped", []))
    http = decided["http"]
    return Exchange(
        http["method"], http["path"], finished["status"], swapped, decided.get("connection")
    )
