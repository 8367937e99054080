"""``make bench``: every subject under the same load, one after another, in one run.

Writes tables and a plot to ``docs/`` where everything was measured at full length; prints the
tables always.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import trustme
from tests.benchmarks.load import Numbers, Spec
from tests.benchmarks.plot import draw
from tests.benchmarks.processes import memory, running_on
from tests.benchmarks.report import Results, render
from tests.benchmarks.subjects import (
    HOST,
    MISSING,
    ONLY,
    PLACEHOLDER,
    PLAIN_HOST,
    SECRET,
    SUBJECTS,
    Place,
    Subject,
)

DOCUMENTS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
GIGABYTE = 10**9
DISTURBED = 0.15
"""From this share of a core on, what others do shows in the numbers."""


@dataclass(frozen=True)
class Measurement:
    """One load on each subject."""

    kind: str
    clients: int
    rate: int = 0
    plain: bool = False
    """Only where the upstream has a second name, without a secret: there under that name."""
    resumed: bool = False
    """TLS sessions, between client and subject."""
    share: float = 1.0
    """Of the seconds of a measurement."""


MEASUREMENTS = {
    "requests, 1 client": Measurement("requests", 1),
    "requests, 16 clients": Measurement("requests", 16),
    "varied requests, 16 clients": Measurement("varied", 16),
    "new connections, 4 clients": Measurement("connections", 4),
    "resumed connections, 4 clients": Measurement("connections", 4, resumed=True),
    "download": Measurement("download", 1, GIGABYTE, share=2),
    "download, no secret": Measurement("download", 1, GIGABYTE, plain=True, share=2),
    "tunnels": Measurement("tunnels", 1000),
    "events": Measurement("events", 300, 100),
}
"""In this order: what may leave a subject behind schedule comes last."""


@dataclass(frozen=True)
class Cores:
    """Which core serves whom; empty sets where there is only one."""

    subject: set[int]
    client: set[int]
    upstream: set[int]


def main() -> None:
    """Measure, print, and write the documents after a whole run."""
    options = parse()
    if not Path("/proc/self/stat").exists():
        sys.exit("make bench reads processor time and memory from /proc: run it on Linux.")
    begin = time.monotonic()
    names, notes = choose(options.subjects)
    cores = choose_cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o711)  # squid serves as another user
        ca = trustme.CA()
        ca_file = folder / "upstream-ca.pem"
        ca.cert_pem.write_to_path(str(ca_file))
        upstream, port = start_upstream(stack, ca, folder, cores.upstream)
        results: Results = {}
        for name in names:
            own = folder / name.replace(" ", "-")
            own.mkdir()
            every = cores.subject | cores.client | cores.upstream
            place = Place(own, port, ca, str(ca_file), cores.subject, every)
            try:
                subject = SUBJECTS[name](place)
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                sys.stderr.write(f"Without {name}: {error}\n")
                notes.append(f"Not measured: {name}, which did not start.")
                continue
            try:
                results[name] = measure(
                    name,
                    subject,
                    place,
                    upstream_pid=upstream,
                    cores=cores.client,
                    options=options,
                    notes=notes,
                )
            finally:
                subject.stop()
    notes.append(describe(cores, options.seconds) + " " + disturbance(results))
    text = render(results, notes)
    sys.stdout.write(text)
    sys.stderr.write(f"{time.monotonic() - begin:.0f} s in all\n")
    if options.json:
        options.json.write_text(json.dumps({"results": results, "notes": notes}, indent=1) + "\n")
    if options.whole:
        write(text, results)


def parse() -> argparse.Namespace:
    """Read ``BENCH_FLAGS``."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a measurement")
    parser.add_argument("--quick", action="store_true", help="one second each; writes nothing")
    parser.add_argument("--subjects", help="only those with these words: express,squid")
    parser.add_argument("--loads", help="only these: requests, connections, download, …")
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    parser.add_argument("--no-write", action="store_true", help="leave the documents alone")
    options = parser.parse_args()
    options.whole = not (options.quick or options.subjects or options.loads or options.no_write)
    options.seconds = 1.0 if options.quick else options.seconds
    kinds = {measurement.kind for measurement in MEASUREMENTS.values()}
    options.loads = set(options.loads.split(",")) if options.loads else kinds
    words = options.subjects.split(",") if options.subjects else [""]
    options.subjects = [name for name in SUBJECTS if any(word in name for word in words)]
    if not options.subjects:
        parser.error(f"no such subject: choose from {', '.join(SUBJECTS)}")
    if unknown := options.loads - kinds:
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(sorted(kinds))}")
    return options


def choose(wanted: list[str]) -> tuple[list[str], list[str]]:
    """The subjects that can be had here, and a sentence for each that cannot."""
    names, notes = [], []
    for name in SUBJECTS:
        if name not in wanted and name != "no proxy":
            continue
        problem = MISSING.get(name, lambda: None)()
        if problem:
            sys.stderr.write(f"Without {name}: {problem}\n")
            notes.append(f"Not measured: {name}. {problem}")
        else:
            names.append(name)
    return names, notes


def choose_cores() -> Cores:
    """One core for the subject, others for the load; nothing is pinned on a single core."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) == 1:
        return Cores(set(), set(), set())
    subject, client, *more = available
    return Cores({subject}, {client}, {more[0] if more else client})


def describe(cores: Cores, seconds: float) -> str:
    """What it ran on, and how."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    if not cores.subject:
        pins = "subject, generator and upstream share the only core"
    elif cores.client == cores.upstream:
        pins = "the subject has one to itself, generator and upstream share the other"
    else:
        pins = "subject, generator and upstream have one each"
    return (
        f"{os.cpu_count()} cores ({model}, Linux), of which {pins}; "
        f"Python {sys.version.split()[0]} {how_built()}; {seconds:.0f} s a measurement."
    )


def how_built() -> str:
    """Whether this Python is the quick kind, which distributions and container images have."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    quick = "--enable-optimizations" in options
    return f"built with{'' if quick else 'out'} --enable-optimizations"


def disturbance(results: Results) -> str:
    """How quiet the machine was: numbers of a run that shared its cores say little."""
    worst = max(
        (numbers.get("others_busy", 0) for rows in results.values() for numbers in rows.values()),
        default=0,
    )
    if worst > DISTURBED:
        sys.stderr.write("The machine was not quiet: only processor times can be compared.\n")
    return f"Everything else on the machine took {worst:.0%} of a core at most."


def start_upstream(
    stack: ExitStack, ca: trustme.CA, folder: Path, cores: set[int]
) -> tuple[int, int]:
    """Start the upstream process; returns its pid and port."""
    certificate = folder / "upstream.pem"
    chain = ca.issue_cert(HOST, PLAIN_HOST).private_key_and_cert_chain_pem
    chain.write_to_path(str(certificate))
    command = [sys.executable, "-m", "tests.benchmarks.upstream", str(certificate), SECRET]
    with running_on(cores):
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    stack.callback(process.terminate)
    assert process.stdout is not None
    return process.pid, int(process.stdout.readline())


def measure(
    name: str,
    subject: Subject,
    place: Place,
    *,
    upstream_pid: int,
    cores: set[int],
    options: argparse.Namespace,
    notes: list[str],
) -> dict[str, Numbers]:
    """Every number of one subject; what failed becomes a note."""
    sys.stderr.write(f"{name}: ")
    numbers: dict[str, Numbers] = {}
    pid = subject.process.pid if subject.process else None
    if pid is not None:
        idle = memory(pid)
        numbers["idle"] = {"ready": subject.ready_seconds, "rss": idle.rss}
        if idle.pss is not None:
            numbers["idle"]["pss"] = idle.pss
    for label, measurement in MEASUREMENTS.items():
        if measurement.kind not in options.loads or label not in ONLY.get(name, MEASUREMENTS):
            continue
        if measurement.plain and not subject.plain_host:
            continue
        if measurement.kind == "tunnels" and pid is None:
            continue
        sys.stderr.write(f"{label}; ")
        sys.stderr.flush()
        spec = Spec(
            kind=measurement.kind,
            clients=measurement.clients,
            seconds=options.seconds * measurement.share,
            host=subject.plain_host if measurement.plain and subject.plain_host else HOST,
            port=place.upstream_port,
            ca_file=subject.ca_file,
            credential=SECRET if pid is None or measurement.plain else PLACEHOLDER,
            proxy=subject.address,
            subject_pid=pid,
            upstream_pid=upstream_pid,
            rate=measurement.rate,
            resumed=measurement.resumed,
        )
        try:
            numbers[label] = load(spec, cores)
        except RuntimeError as error:
            notes.append(f"Failed: {name}, {label}: {error}.")
            sys.stderr.write(f"failed: {error}; ")
    sys.stderr.write("\n")
    return numbers


def load(spec: Spec, cores: set[int]) -> Numbers:
    """Run the load generator; RuntimeError with its last words where it failed."""
    command = [sys.executable, "-m", "tests.benchmarks.load", json.dumps(asdict(spec))]
    with running_on(cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=spec.seconds + 120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError("the load did not end") from None
    if process.returncode:
        raise RuntimeError(errors.decode().strip()[-300:])
    result: Numbers = json.loads(output)
    return result


def write(text: str, results: Results) -> None:
    """Put tables and plot into the documents."""
    document = DOCUMENTS / "benchmarks.md"
    before, _, rest = document.read_text().partition(BEGIN)
    image = "![The main numbers as bars](benchmarks.svg)\n\n"
    document.write_text(before + BEGIN + "\n" + image + text + "\n" + END + rest.partition(END)[2])
    (DOCUMENTS / "benchmarks.svg").write_text(draw(results))


if __name__ == "__main__":
    main()
