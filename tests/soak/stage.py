"""The place of a soak: the hosts, the policy, the secrets, one real proxy."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from tests.clients.git_server import basic, make_repository, serve_git
from tests.clients.sandbox import UNDERSTUDY
from tests.soak.ledger import Entry, Ledger
from tests.soak.upstream import MODELS, Handler, Upstreams, model_backend, read_body
from tests.support.proxy import Proxy
from tests.support.scene import forms_of
from tests.support.upstream import Received

MARKER = "sk-real-soak-"
"""Every real secret begins with it, so one look finds any of them."""
FORMS = forms_of(MARKER)
GIT_USER = "x-access-token"
BAD_POLICIES = ("", "version: 1\nallow: [{name: x, hsts: [a.example]}]\n", "{", "version: 2\n")


@dataclass
class Stage:
    """Everything that a soak's clients and troublemakers need."""

    folder: Path
    engine: str
    workers: int = 1
    ledger: Ledger = field(default_factory=Ledger)

    async def open(self) -> None:
        """Start the upstreams and the proxy."""
        self.ca = trustme.CA()
        self.upstreams = Upstreams(self.ca, self.ledger, MARKER.encode())
        for host in ("search.example", "fragile.example", "files.example", *MODELS, "github.com"):
            await self.upstreams.start(host)
        await self.upstreams.start("forged.example", "other.example")
        self.git = shutil.which("git")
        self._prepare_backends()
        self.secret_files = {
            host: self.folder / f"key-{host}" for host in ("search.example", "fragile.example")
        }
        for host in self.secret_files:
            self.renew_secret(host)
        self.policies = [self._policy_text(toggled) for toggled in (False, True)]
        self.proxy = Proxy(
            self.policies[0],
            self.folder / "proxy",
            self.engine,
            environ={**self._fixed, "UNDERSTUDY_SPY_GAUGES": str(self.gauge_file)},
            arguments=["--workers", str(self.workers)],
            names={"guarded.example": [["169.254.169.254"]]},
        )
        await asyncio.to_thread(self.proxy.__enter__)
        self.placeholders = self.proxy.placeholders()
        self.upstreams.placeholders = [p.encode() for p in self.placeholders.values()]

    async def stop(self) -> int:
        """End the proxy as an orchestrator does; gives its exit code."""
        self.proxy.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.proxy.process.wait, 60)

    async def leave(self) -> None:
        """Let nothing go on, however it went."""
        await self.upstreams.close()
        process = self.proxy.process
        if process.poll() is None:
            process.kill()
            process.wait()

    @property
    def gauge_file(self) -> Path:
        """Where the proxy's processes say how they are; each adds its number to the name."""
        return self.folder / "gauges.json"

    # -- secrets

    def _prepare_backends(self) -> None:
        self._fixed = {
            name: MARKER + secrets.token_hex(20)
            for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN")
        }
        upstreams = self.upstreams
        for (host, make), name in zip(MODELS.items(), self._fixed, strict=False):
            upstreams.credentials[host] = {self._fixed[name]}
            upstreams.backends[host] = model_backend(make, host, upstreams)
        authorization = basic(GIT_USER, self._fixed["GITHUB_TOKEN"])
        upstreams.credentials["github.com"] = {authorization}
        if self.git is not None:
            make_repository(self.folder / "served", self.git)
            _fill(self.folder / "served" / "acme" / "tool.git", self.folder / "work", self.git)
            upstreams.backends["github.com"] = _git_backend(
                serve_git(self.folder / "served", self.git, authorization)
            )

    def renew_secret(self, host: str) -> None:
        """Rotate the secret of a host: known to its upstream first, then to the proxy."""
        value = MARKER + secrets.token_hex(20)
        self.upstreams.credentials.setdefault(host, set()).add(value)
        file = self.secret_files[host]
        fresh = file.with_suffix(".new")
        fresh.write_text(value)
        fresh.replace(file)

    # -- the policy

    def _policy_text(self, toggled: bool) -> str:
        places = {f"{host}:443": f"127.0.0.1:{port}" for host, port in self.upstreams.ports.items()}
        ca_file = self.folder / "upstream-ca.pem"
        self.ca.cert_pem.write_to_path(str(ca_file))
        policy: dict[str, Any] = {
            "version": 1,
            "connections": {
                "openai": {"provider": "openai", "secret": {"env": "OPENAI_API_KEY"}},
                "anthropic": {"provider": "anthropic", "secret": {"env": "ANTHROPIC_API_KEY"}},
                "github-bot": {"provider": "github", "secret": {"env": "GITHUB_TOKEN"}},
                **{
                    host.split(".")[0]: {
                        "hosts": [host],
                        "carriers": [{"header": "X-Search-Key"}, {"bearer": True}],
                        "secret": {"file": str(file)},
                    }
                    for host, file in self.secret_files.items()
                },
            },
            "allow": [
                {"name": "openai", "connection": "openai"},
                {"name": "anthropic", "connection": "anthropic"},
                {"name": "repos", "connection": "github-bot", "paths": ["/acme/**"]},
                {
                    "name": "search",
                    "connection": "search",
                    "methods": ["GET", "POST", "PUT"],
                    "paths": ["/soak/**", "/sealed/**"],
                    "websocket": self.engine == "express",
                },
                {"name": "fragile", "connection": "fragile"},
                {
                    "name": "files",
                    "hosts": ["files.example", "lost.example", "forged.example", "guarded.example"],
                    "websocket": self.engine == "express",
                },
            ],
            "deny": [{"name": "sealed", "hosts": ["search.example"], "paths": ["/sealed/**"]}],
            "upstream": {"ca_file": str(ca_file), "connect_to": places},
        }
        if toggled:
            toggle = {"name": "toggled", "hosts": ["files.example"], "paths": ["/toggled/**"]}
            policy["deny"].append(toggle)
        return json.dumps(policy)

    # -- what a sandbox gets

    def sandbox(self) -> dict[str, str]:
        """The environment of the clients: what ``understudy env`` prints, and no more."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        base = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
        command = [
            *(UNDERSTUDY, "env", "--policy", str(self.proxy.policy_file), "--format", "json"),
            *("--state-dir", str(self.proxy.state), "--proxy-url", self.proxy.url),
        ]
        printed = subprocess.run(command, env=base, capture_output=True, check=True).stdout
        return base | json.loads(printed)


def has_secret(data: bytes) -> bool:
    """Whether a secret shows, plain or in base64."""
    return any(form in data for form in FORMS)


def _fill(repository: Path, work: Path, git: str) -> None:
    work.mkdir()
    (work / "data.bin").write_bytes(os.urandom(200_000))
    environ = {"HOME": str(work.parent), "PATH": os.environ["PATH"]}
    identity = ["-c", "user.name=Agent", "-c", "user.email=agent@corp.example"]
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "data.bin"],
        [*identity, "commit", "--quiet", "-m", "data"],
        ["push", "--quiet", str(repository), "main"],
    ):
        subprocess.run([git, *arguments], cwd=work, check=True, env=environ)


def _git_backend(serve: Any) -> Handler:
    """One repository under as many names as there are marks."""

    async def handle(
        received: Received, reader: StreamReader, writer: StreamWriter, entry: Entry
    ) -> None:
        received.body = await read_body(received, reader)
        received.raw_head = received.raw_head.replace(entry.mark.encode(), b"tool")
        await serve(received, writer)

    return handle
