"""What is measured: Understudy with everything on, and what it is held against."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import trustme
import yaml
from tests.benchmarks import goproxy, squid
from tests.benchmarks.processes import running_on

BIN = Path(sys.executable).parent
SECRET = "sk-real-0123456789abcdefghijklmnopqrstuv"
PLACEHOLDER = "sk-placeholder-0123456789abcdefghijklmnop"
HOST = "localhost"
PLAIN_HOST = "127.0.0.1"
"""The same upstream under a name that Understudy's policy binds to no secret."""
START_SECONDS = 60
TWO_WORKERS = "understudy express, 2 workers"

SWAP_SCRIPT = f'''
"""Swap one header; stream long answers: what people write first."""


def requestheaders(flow):
    if flow.request.headers.get("x-api-key") == "{PLACEHOLDER}":
        flow.request.headers["x-api-key"] = "{SECRET}"


def responseheaders(flow):
    if "json" not in flow.response.headers.get("content-type", ""):
        flow.response.stream = True
'''


@dataclass(frozen=True)
class Place:
    """Where a subject may keep its files, what it talks to, on which cores it runs."""

    folder: Path
    upstream_port: int
    upstream_ca: trustme.CA
    upstream_ca_file: str
    cores: set[int]
    """The subject's own, which what has several workers shares with the load."""
    all_cores: set[int] = field(default_factory=set)


@dataclass
class Subject:
    """A running proxy under load (or none)."""

    address: tuple[str, int] | None
    ca_file: str
    process: subprocess.Popen[bytes] | None
    ready_seconds: float = 0.0
    plain_host: str | None = None
    """A second name for the upstream, where that makes a difference to this subject."""

    def stop(self) -> None:
        """End the process that was started here."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_none(place: Place) -> Subject:
    """The load straight to the upstream: what the generator can do at most."""
    return Subject(None, place.upstream_ca_file, None)


def start_mitmdump(place: Place) -> Subject:
    """Stock mitmdump with the script; quiet, which spares it a line for every request."""
    script = place.folder / "swap.py"
    script.write_text(SWAP_SCRIPT)
    certificate = place.folder / "mitmproxy-ca-cert.pem"
    port = free_port()
    command: list[str | Path] = [BIN / "mitmdump", "-q", "-s", script]
    command += ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
    command += ["--set", f"confdir={place.folder}"]
    command += ["--set", f"ssl_verify_upstream_trusted_ca={place.upstream_ca_file}"]
    process, ready = start(
        command, place, lambda: certificate.exists() and accepts(port), clean_environ()
    )
    return Subject(("127.0.0.1", port), str(certificate), process, ready)


def start_understudy(place: Place, engine: str, workers: int = 1) -> Subject:
    """Understudy with policy, swap, audit (file, fail_closed) and metrics."""
    policy = {
        "version": 1,
        "connections": {
            "bench": {
                "hosts": [HOST],
                "carriers": [{"header": "x-api-key"}],
                "secret": {"env": "BENCH_SECRET"},
                "placeholder": PLACEHOLDER,
            }
        },
        "allow": [
            {"name": "bench", "connection": "bench", "ports": [place.upstream_port]},
            {"name": "plain", "hosts": [PLAIN_HOST], "ports": [place.upstream_port]},
        ],
        "upstream": {
            "ca_file": place.upstream_ca_file,
            "allow_addresses": ["127.0.0.0/8", "::1/128"],
        },
    }
    file = place.folder / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    ready_file = place.folder / "ready.json"
    # Not beside the policy, whose folder is watched: each line would wake the watcher.
    audit = place.folder / "audit"
    audit.mkdir()
    command = [BIN / "understudy", "run", "--policy", file, "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--state-dir", place.folder / "state"]
    command += ["--audit", audit / "audit.jsonl", "--ready-file", ready_file]
    command += ["--engine", engine, "--workers", str(workers)]
    environ = clean_environ() | {"BENCH_SECRET": SECRET}
    process, ready = start(command, place, ready_file.exists, environ)
    facts = json.loads(ready_file.read_text())
    host, _, listen_port = facts["proxy"].rpartition(":")
    return Subject((host, int(listen_port)), facts["ca_cert"], process, ready, PLAIN_HOST)


def start_workers(place: Place) -> Subject:
    """Express with two workers, free to use every core: that of the load too."""
    return start_understudy(replace(place, cores=place.all_cores), "express", workers=2)


def start_floor(place: Place) -> Subject:
    """The least that uvloop, httptools and ssl can do."""
    leaf = place.folder / "leaf.pem"
    place.upstream_ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(leaf))
    port_file = place.folder / "port"
    command = [sys.executable, "-m", "tests.benchmarks.floor", port_file, leaf]
    command += [place.upstream_ca_file, PLACEHOLDER, SECRET]
    process, ready = start(command, place, port_file.exists, None)
    address = ("127.0.0.1", int(port_file.read_text()))
    return Subject(address, place.upstream_ca_file, process, ready)


def start_squid(place: Place) -> Subject:
    """squid with ssl-bump and a header rewrite."""
    port = free_port()
    ca_file = squid.prepare(place.folder, port, place.upstream_ca_file, SECRET)
    command = squid.command(place.folder)
    process, ready = start(command, place, lambda: accepts(port), clean_environ())
    return Subject(("127.0.0.1", port), ca_file, process, ready)


def start_goproxy(place: Place) -> Subject:
    """A proxy on Go's net/http and crypto/tls, with one header replaced."""
    port = free_port()
    ca_file, command = goproxy.prepare(
        place.folder, port, place.upstream_ca_file, PLACEHOLDER, SECRET
    )
    process, ready = start(command, place, lambda: accepts(port), clean_environ())
    return Subject(("127.0.0.1", port), ca_file, process, ready)


SUBJECTS: dict[str, Callable[[Place], Subject]] = {
    "no proxy": start_none,
    "mitmdump": start_mitmdump,
    "understudy mitmproxy": lambda place: start_understudy(place, "mitmproxy"),
    "understudy express": lambda place: start_understudy(place, "express"),
    TWO_WORKERS: start_workers,
    "squid": start_squid,
    "goproxy": start_goproxy,
    "floor": start_floor,
}
"""In the order of the table's columns."""

ONLY: dict[str, set[str]] = {
    # A session is resumed by the worker that began it; which one takes a connection is chance.
    TWO_WORKERS: {"requests, 16 clients", "new connections, 4 clients", "events"}
}
"""What a subject is measured by, where that is not everything."""

MISSING: dict[str, Callable[[], str | None]] = {
    "squid": squid.missing,
    "goproxy": goproxy.missing,
}
"""Why a subject cannot be measured here, as a sentence; None where it can."""


def start(
    command: list[str | Path],
    place: Place,
    ready: Callable[[], bool],
    environ: dict[str, str] | None,
) -> tuple[subprocess.Popen[bytes], float]:
    """Start a subject on its cores; returns it and the seconds until it was ready.

    RuntimeError with the end of its output where it is not, or has ended.
    """
    output = place.folder / "output.log"
    begin = time.perf_counter()
    with running_on(place.cores), output.open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    while not ready():
        if process.poll() is not None or time.perf_counter() > begin + START_SECONDS:
            process.kill()
            process.wait()
            raise RuntimeError(f"{command[0]} did not start: {output.read_text()[-1000:]}")
        time.sleep(0.005)  # a benchmark may poll, a test may not
    return process, time.perf_counter() - begin


def clean_environ() -> dict[str, str]:
    """Nothing inherited that could steer a proxy."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def free_port() -> int:
    """A port for those that must be told one, as they cannot say which they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
