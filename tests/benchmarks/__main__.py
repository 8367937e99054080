"""``make bench``: every subject under the same load, one after another, in one run.

Writes the table to standard output and to ``docs/benchmarks.md`` between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import trustme
from tests.benchmarks.load import Spec
from tests.benchmarks.subjects import (
    HOST,
    PLACEHOLDER,
    SECRET,
    Subject,
    start_mitmdump,
    start_none,
    start_understudy,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
STREAMS = 100

Numbers = dict[str, float]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each measurement")
    parser.add_argument("--no-write", action="store_true", help="leave the document alone")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ca = trustme.CA()
        ca_file = str(folder / "upstream-ca.pem")
        ca.cert_pem.write_to_path(ca_file)
        port = start_upstream(stack, ca, folder)
        results = {}
        for start in (
            lambda: start_none(ca_file),
            lambda: start_mitmdump(folder / "mitmdump", ca_file, quiet=False),
            lambda: start_mitmdump(folder / "mitmdump-q", ca_file, quiet=True),
            lambda: start_understudy(folder / "understudy", ca_file, port, "mitmproxy"),
            lambda: start_understudy(folder / "express", ca_file, port, "express"),
        ):
            subject = start()
            try:
                results[subject.name] = measure(subject, port, options.seconds)
            finally:
                subject.stop()
    text = render(results, options.seconds)
    sys.stdout.write(text)
    if not options.no_write:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])


def start_upstream(stack: ExitStack, ca: trustme.CA, folder: Path) -> int:
    """Start the upstream process; returns its port."""
    certificate = folder / "upstream.pem"
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(certificate))
    command = [sys.executable, "-m", "tests.benchmarks.upstream", str(certificate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    return int(process.stdout.readline())


def measure(subject: Subject, port: int, seconds: float) -> Numbers:
    """Every number of one subject."""
    sys.stderr.write(f"{subject.name} …\n")
    numbers: Numbers = {"ready": subject.ready_seconds, "idle": subject.idle_megabytes()}
    load(subject, port, "requests", 2, 1.0)  # warm
    for clients in (1, 16):
        before = subject.cpu_seconds()
        result = load(subject, port, "requests", clients, seconds)
        numbers["cpu"] = (subject.cpu_seconds() - before) / result["count"]
        numbers[f"rps{clients}"] = result["per_second"]
        numbers[f"p50_{clients}"], numbers[f"p99_{clients}"] = result["p50"], result["p99"]
    numbers["connections"] = load(subject, port, "connections", 4, seconds)["per_second"]
    events = load(subject, port, "events", STREAMS, seconds)
    numbers["lag_p50"], numbers["lag_p99"] = events["p50"], events["p99"]
    return numbers


def load(subject: Subject, port: int, kind: str, clients: int, seconds: float) -> Numbers:
    """Run the load generator against one subject."""
    credential = PLACEHOLDER if subject.address else SECRET
    spec = Spec(kind, clients, seconds, HOST, port, subject.ca_file, credential, subject.address)
    command = [sys.executable, "-m", "tests.benchmarks.load", json.dumps(asdict(spec))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{subject.name}, {kind}, {clients} clients: {done.stderr}")
    result: Numbers = json.loads(done.stdout)
    return result


def render(results: dict[str, Numbers], seconds: float) -> str:
    """The table, in Markdown."""
    base = results["no proxy"]
    names = list(results)
    rows = [
        ("requests/s, 1 client", lambda n: f"{n['rps1']:.0f}"),
        ("requests/s, 16 clients", lambda n: f"{n['rps16']:.0f}"),
        ("processor time a request", lambda n: f"{n['cpu'] * 1e6:.0f} µs" if n["cpu"] else "–"),
        ("new connections/s, 4 clients", lambda n: f"{n['connections']:.0f}"),
        ("added latency p50, 1 client", lambda n: milliseconds(n["p50_1"] - base["p50_1"])),
        ("added latency p99, 1 client", lambda n: milliseconds(n["p99_1"] - base["p99_1"])),
        (f"event lag p50, {STREAMS} streams", lambda n: milliseconds(n["lag_p50"])),
        (f"event lag p99, {STREAMS} streams", lambda n: milliseconds(n["lag_p99"])),
        ("idle memory", lambda n: f"{n['idle']:.0f} MB" if n["idle"] else "–"),
        ("ready after", lambda n: f"{n['ready']:.2f} s" if n["ready"] else "–"),
    ]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    lines += [
        f"| {label} | {' | '.join(show(results[name]) for name in names)} |" for label, show in rows
    ]
    ratios = [
        ("requests/s, 1 client", "rps1"),
        ("requests/s, 16 clients", "rps16"),
        ("new connections/s", "connections"),
    ]
    stocks = [name for name in names if name.startswith("mitmdump")]
    own = [name for name in names if name.startswith("understudy")]
    columns = [(name, stock) for name in own for stock in stocks]
    heads = [f"{name} / {stock}" for name, stock in columns]
    lines += ["", f"| ratio | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for label, key in ratios:
        cells = [f"{results[n][key] / results[s][key]:.2f} ×" for n, s in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", f"{machine()}; {seconds:.0f} s a measurement."]
    return "\n".join(lines) + "\n"


def milliseconds(seconds: float) -> str:
    """For a table."""
    return f"{seconds * 1000:.2f} ms"


def machine() -> str:
    """What it ran on."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
