"""What is measured: no proxy, stock mitmdump with a script, Understudy with everything on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

BIN = Path(sys.executable).parent
SECRET = "sk-real-0123456789abcdefghijklmnopqrstuv"
PLACEHOLDER = "sk-placeholder-0123456789abcdefghijklmnop"
HOST = "localhost"
START_SECONDS = 60

SWAP_SCRIPT = f'''
"""Swap one header; stream bodies: what people write first."""


def requestheaders(flow):
    if flow.request.headers.get("x-api-key") == "{PLACEHOLDER}":
        flow.request.headers["x-api-key"] = "{SECRET}"


def responseheaders(flow):
    if "text/event-stream" in flow.response.headers.get("content-type", ""):
        flow.response.stream = True
'''


@dataclass
class Subject:
    """A running proxy under load (or none)."""

    name: str
    address: tuple[str, int] | None
    ca_file: str
    process: subprocess.Popen[bytes] | None
    ready_seconds: float

    def idle_megabytes(self) -> float:
        """Resident memory of the process, all its children included."""
        if self.process is None:
            return 0.0
        pids = [self.process.pid]
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children")
        pids += [int(pid) for pid in children.read_text().split()]
        total = 0
        for pid in pids:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS"):
                    total += int(line.split()[1])
        return total / 1024

    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far: what noise on the machine spares."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process that was started here."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start_none(ca_file: str) -> Subject:
    """The load straight to the upstream: what the generator can do at most."""
    return Subject("no proxy", None, ca_file, None, 0.0)


def start_mitmdump(folder: Path, ca_file: str, *, quiet: bool) -> Subject:
    """Stock mitmdump with the script; ``quiet`` spares it its line for every request."""
    folder.mkdir()
    script = folder / "swap.py"
    script.write_text(SWAP_SCRIPT)
    port = free_port()
    begin = time.perf_counter()
    command = [BIN / "mitmdump", *(["-q"] if quiet else []), "-s", script]
    command += [
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        str(port),
        "--set",
        f"confdir={folder}",
    ]
    command += ["--set", f"ssl_verify_upstream_trusted_ca={ca_file}"]
    process = subprocess.Popen(command, env=clean_environ(), stdout=subprocess.DEVNULL)
    wait_for(lambda: accepts(port) and (folder / "mitmproxy-ca-cert.pem").exists())
    ready = time.perf_counter() - begin
    certificate = folder / "mitmproxy-ca-cert.pem"
    name = "mitmdump -q" if quiet else "mitmdump"
    return Subject(name, ("127.0.0.1", port), str(certificate), process, ready)


def start_understudy(folder: Path, ca_file: str, port: int, engine: str) -> Subject:
    """Understudy with policy, swap, audit (file, fail_closed) and metrics."""
    folder.mkdir()
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
        "allow": [{"name": "bench", "connection": "bench", "ports": [port]}],
        "upstream": {"ca_file": ca_file, "allow_addresses": ["127.0.0.0/8", "::1/128"]},
    }
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    ready_file = folder / "ready.json"
    begin = time.perf_counter()
    command = [BIN / "understudy", "run", "--policy", file, "--listen", "127.0.0.1:0"]
    command += ["--admin", "127.0.0.1:0", "--state-dir", folder / "state"]
    command += ["--audit", folder / "audit.jsonl", "--ready-file", ready_file]
    command += ["--engine", engine]
    process = subprocess.Popen(
        command, env=clean_environ() | {"BENCH_SECRET": SECRET}, stderr=subprocess.DEVNULL
    )
    wait_for(ready_file.exists)
    ready = time.perf_counter() - begin
    facts = json.loads(ready_file.read_text())
    host, _, listen_port = facts["proxy"].rpartition(":")
    name = f"understudy {engine}"
    return Subject(name, (host, int(listen_port)), facts["ca_cert"], process, ready)


def clean_environ() -> dict[str, str]:
    """Nothing inherited that could steer a proxy."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def free_port() -> int:
    """A port that mitmdump can be told, as it cannot say which it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: object) -> None:
    """Poll until ready; a benchmark may sleep, a test may not."""
    assert callable(condition)
    deadline = time.perf_counter() + START_SECONDS
    while not condition():
        if time.perf_counter() > deadline:
            raise RuntimeError("a subject did not start")
        time.sleep(0.005)
