"""The real proxy as a process of its own, and everything that can be seen of it from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from tests.support.client import Answer, Wire

START_SECONDS = 30
SPY = Path(__file__).parent / "spy"
WORKERS = os.environ.get("UNDERSTUDY_TEST_WORKERS", "1")


@dataclass
class Proxy:
    """`understudy run` with a policy. Use as a context manager.

    ``policy`` is the policy file's content (a dict is written as YAML); ``engine`` is what the
    ``engine`` fixture gives; ``environ`` is added to
    a clean environment; ``names`` is all that names resolve to (None: what the system says), and
    ``faults`` lets :meth:`sabotage` make hooks raise (see tests/support/spy).
    """

    policy: dict[str, Any] | str
    folder: Path
    engine: str
    environ: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)
    names: dict[str, list[list[str]]] | None = field(default_factory=dict)
    faults: bool = False
    program: list[str] = field(default_factory=list)
    """Runs in place of ``understudy``: another program with the same commands."""
    audit: str | None = None
    """Where the audit goes; a file in ``folder`` by default."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.policy_file = self.folder / "policy.yaml"
        self.audit_file = self.folder / "audit.jsonl"
        self.state = self.folder / "state"
        self.spy_file = self.folder / "spied.jsonl"
        self.fault_file = self.folder / "fault"
        self.fault_file.write_text("")
        if not self.policy_file.exists():
            self.write_policy(self.policy)

    def write_policy(self, policy: dict[str, Any] | str) -> None:
        """Put another policy file in place, atomically."""
        text = policy if isinstance(policy, str) else yaml.safe_dump(policy, sort_keys=False)
        fresh = self.policy_file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.policy_file)

    def __enter__(self) -> Self:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(SPY),
            "UNDERSTUDY_SPY_FILE": str(self.spy_file),
            **({} if self.names is None else {"UNDERSTUDY_SPY_NAMES": json.dumps(self.names)}),
            **({"UNDERSTUDY_SPY_FAULT": str(self.fault_file)} if self.faults else {}),
            **self.environ,
        }
        self.log_file = self.folder / "stderr.log"
        self.out_file = self.folder / "stdout.log"
        command = [
            *(self.program or [str(Path(sys.executable).parent / "understudy")]),
            "run",
            "--policy",
            str(self.policy_file),
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--state-dir",
            str(self.state),
            "--audit",
            self.audit or str(self.audit_file),
            "--ready-file",
            str(ready),
            "--engine",
            self.engine,
            "--workers",
            WORKERS,
            *self.arguments,
        ]
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self.process = subprocess.Popen(command, env=environ, stdout=out, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"understudy run did not start:\n{self.log_file.read_text()}")
            time.sleep(0.01)
        facts = json.loads(ready.read_text())
        host, _, port = facts["proxy"].rpartition(":")
        self.address = (host, int(port))
        self.url = f"http://{facts['proxy']}"
        self.admin_url = f"http://{facts['admin']}"
        self.ca_cert = facts["ca_cert"]
        self.bundle = facts["bundle"]
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    # -- talking to it

    def wire(self, source: str | None = None) -> Wire:
        """A raw connection to the proxy's port, from another address than usual if told."""
        return Wire(self.address, self.ca_cert, source)

    def tunnel(self, host: str, port: int = 443) -> Wire:
        """A TLS connection to ``host`` through the proxy, the certificate verified."""
        wire = self.wire()
        answer = wire.connect(f"{host}:{port}")
        assert answer.status == 200, answer
        return wire.start_tls(host)

    def request(
        self,
        method: str,
        host: str,
        path: str = "/",
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        port: int = 443,
    ) -> Answer:
        """One request in a tunnel of its own."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}" + ("" if port == 443 else f":{port}")]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        with self.tunnel(host, port) as wire:
            return wire.request("\n".join(lines), body)

    @contextmanager
    def sabotage(self, hook: str) -> Iterator[None]:
        """Make ``Class.hook`` raise, or with ``:after`` raise once its work is done."""
        assert self.faults
        self.fault_file.write_text(hook)
        try:
            yield
        finally:
            self.fault_file.write_text("")

    # -- looking at it

    def placeholders(self) -> dict[str, str]:
        """Every placeholder that was minted, by connection."""
        file = self.state / "placeholders.json"
        stored: dict[str, str] = (
            json.loads(file.read_text())["placeholders"] if file.exists() else {}
        )
        return stored

    def placeholder(self, connection: str) -> str:
        """The placeholder that stands for a connection's secret."""
        return self.placeholders()[connection]

    def events(self, event: str | None = None, *, since: int = 0) -> list[dict[str, Any]]:
        """The audit's lines from byte ``since`` on; each must be whole, valid, ASCII JSON."""
        file = self.audit_file if self.audit is None else Path(self.audit)
        deadline = time.monotonic() + START_SECONDS
        while (raw := file.read_bytes()[since:] if file.exists() else b"")[-1:] not in (b"", b"\n"):
            # A reader may see the beginning of a line that is being written; it must end soon.
            assert time.monotonic() < deadline, "the audit's last line has no end"
        assert raw.isascii()
        lines = [json.loads(line) for line in raw.splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    def verdicts(self) -> list[dict[str, Any]]:
        """The lines that say what happened to a client's action."""
        wanted = {"request.decided", "tunnel.denied", "connection.rejected"}
        return [line for line in self.events() if line["event"] in wanted]

    def wait_for_events(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until ``count`` lines of a kind are written."""
        deadline = time.monotonic() + START_SECONDS
        while len(found := self.events(event)) < count:
            assert time.monotonic() < deadline, f"{len(found)} {event} events: {self.events()}"
            time.sleep(0.01)
        return found

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self.log_file.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something can be seen from outside."""
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.01)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its text."""
        text = self.admin("/metrics")[1].decode()
        lines = (line.rpartition(" ") for line in text.splitlines() if line[:1] not in ("#", ""))
        return {name: float(value) for name, _, value in lines}

    def peak_memory_bytes(self) -> int:
        """The most memory that it ever had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """How many files and sockets the proxy has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def open_connections(self) -> int:
        """How many client connections the proxy has."""
        _, _, rest = self.admin("/metrics")[1].partition(b"\nunderstudy_active_connections ")
        return int(float(rest.split(b"\n", 1)[0]))

    def admin(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """GET a page of the admin server: (status, body)."""
        request = urllib.request.Request(self.admin_url + path, headers=headers or {})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=START_SECONDS) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def spied(self, event: str) -> list[list[Any]]:
        """What the proxy's process asked of the system: ``socket.connect``, ``getaddrinfo``."""
        if not self.spy_file.exists():
            return []
        lines = [json.loads(line) for line in self.spy_file.read_text().splitlines()]
        return [line["arguments"] for line in lines if line["event"] == event]

    def everything_written(self) -> bytes:
        """Every byte the proxy wrote anywhere outside: audit, logs, metrics, status."""
        pages = b"".join(self.admin(page)[1] for page in ("/metrics", "/status", "/readyz"))
        files = (self.audit_file, self.log_file, self.out_file)
        return pages + b"".join(file.read_bytes() for file in files if file.exists())
