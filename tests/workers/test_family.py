"""What workers share, what each of them is kept from, and what a start with them refuses."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream
from tests.workers.conftest import POLICY, SECRET, WORKERS, Load, tunnels
from tests.workers.processes import nursery_of, wait_for_workers, workers_of

UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
pytestmark = pytest.mark.engine("express")  # the processes are the same with each
MANY = 40
SPKI = PublicFormat.SubjectPublicKeyInfo
SNOOP = """\
import json, sys
def attempt(process, name):
    try:
        with open(f"/proc/{process}/{name}", "rb") as file:
            return file.read(1 << 20).decode("latin-1")
    except OSError as error:
        return type(error).__name__
seen = {attempt(process, name) for process in sys.argv[1:] for name in ("environ", "maps", "mem")}
print(json.dumps(sorted(seen)))
"""


def without_privileges() -> None:
    """Before a program runs: root's right to look into any process is taken from it."""
    if os.geteuid() == 0:
        drop_from_bounding_set = 24
        for capability in (19, 21, 38):  # SYS_PTRACE, SYS_ADMIN, PERFMON
            ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def run_understudy(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump({"version": 1} | POLICY))
    options = ("--policy", policy, "--admin", "off", "--state-dir", folder / "state")
    return subprocess.run(
        [UNDERSTUDY, "run", *map(str, (*options, *arguments))],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GOOD_KEY": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_one_authority_signs_in_every_worker_also_after_its_files_have_changed(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    for file in (proxy.state / "ca").iterdir():
        file.write_text("another")
    victim = workers_of(proxy)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for_workers(proxy, WORKERS, without={victim})
    own = x509.load_pem_x509_certificate(Path(proxy.ca_cert).read_bytes())
    keys = set()
    with tunnels(proxy, MANY) as wires:  # each verified against that certificate
        for wire in wires:
            leaf = wire.socket.getpeercert(binary_form=True)  # type: ignore[attr-defined] # TLS
            certificate = x509.load_der_x509_certificate(leaf)
            certificate.verify_directly_issued_by(own)
            keys.add(certificate.public_key().public_bytes(Encoding.DER, SPKI))
    assert len(keys) == WORKERS


def test_no_process_can_be_looked_into_not_even_a_worker_that_was_just_started(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers()
    victim = workers_of(proxy)[0]
    os.kill(victim, signal.SIGKILL)
    workers = wait_for_workers(proxy, WORKERS, without={victim})
    family = [proxy.process.pid, nursery_of(proxy), *workers]
    ran = subprocess.run(
        [sys.executable, "-c", SNOOP, *map(str, family)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=without_privileges,
    )
    assert json.loads(ran.stdout) == ["PermissionError"]
    for process in family:
        assert SECRET.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        assert "Umask:\t0077\n" in Path(f"/proc/{process}/status").read_text()


def test_workers_send_nothing_to_the_proxys_own_ports(start_workers: Callable[..., Proxy]) -> None:
    proxy = start_workers()
    ports = [proxy.address[1], int(proxy.admin_url.rpartition(":")[2])]
    rule = {"name": "own", "hosts": ["127.0.0.1"], "ports": ports, "schemes": ["http"]}
    upstream = {"upstream": {"allow_addresses": ["127.0.0.0/8"]}}
    proxy.write_policy({"version": 1, "allow": [rule]} | upstream)
    proxy.wait_for_events("policy.loaded", 2)
    for port in ports * 10:
        with proxy.wire() as wire:
            answer = wire.request(f"GET http://127.0.0.1:{port}/ HTTP/1.1\nHost: 127.0.0.1:{port}")
        assert (answer.status, answer.reason) == (403, "address_denied")


def test_every_line_is_whole_and_every_request_has_its_own_under_load_from_all_workers(
    start_workers: Callable[..., Proxy], good: Upstream
) -> None:
    proxy = start_workers()
    # Escaped in JSON, such a path makes a line longer than a page and than a pipe takes at once.
    with Load(proxy, path="/" + "%" + "0a" + "x" * 7000) as load:
        load.wait_for(50)
    assert set(load.answered) <= {200, 400}
    with Load(proxy, path="/" + "y" * 1900) as load:
        load.wait_for(300)
    proxy.wait_until(lambda: proxy.open_connections() == 0)
    decided = [line["request_id"] for line in proxy.events("request.decided")]
    assert len(decided) == len(set(decided))
    finished = [line["request_id"] for line in proxy.events("request.finished")]
    assert len(finished) == len(good.requests)
    allowed = [line for line in proxy.events("request.decided") if line["verdict"] == "allow"]
    assert {line["request_id"] for line in allowed} == set(finished)
    totals = proxy.metrics()
    verdicts = [n for name, n in totals.items() if name.startswith("understudy_requests_total{")]
    assert sum(verdicts) == len(decided)
    assert totals["understudy_first_byte_seconds_count"] == len(finished)
    assert totals["understudy_active_connections"] == 0
    written = 'understudy_audit_events_total{result="written",sink="file"}'
    assert totals[written] == len(proxy.events())


def test_a_port_that_others_listen_on_is_refused_also_where_they_would_share_it(
    start_workers: Callable[..., Proxy], tmp_path: Path
) -> None:
    proxy = start_workers()
    taken = f"127.0.0.1:{proxy.address[1]}"
    for workers in (1, 2):
        ran = run_understudy(tmp_path, "--listen", taken, "--workers", workers)
        assert ran.returncode == 2, ran.stderr
        assert f"{taken}: cannot listen for agents" in ran.stderr
        assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("workers", ["0", "-1", "many", "1000", "1.5", ""])
def test_what_is_no_number_of_workers_is_refused(tmp_path: Path, workers: str) -> None:
    ran = run_understudy(tmp_path, f"--workers={workers}")
    assert ran.returncode == 2
    assert "--workers" in ran.stderr
    assert "from 1 to 256" in ran.stderr


@pytest.mark.parametrize("audit", ["/", "/missing/audit.jsonl"])
def test_a_start_that_fails_says_why_and_leaves_no_process(tmp_path: Path, audit: str) -> None:
    ran = run_understudy(tmp_path, "--listen", "127.0.0.1:0", "--workers", 2, "--audit", audit)
    assert ran.returncode == 2
    assert audit in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_start_that_fails_in_the_workers_says_why(
    tmp_path: Path,
) -> None:
    # The supervisor only holds the port; an address that is not this machine's fails there.
    ran = run_understudy(tmp_path, "--listen", "192.0.2.1:0", "--workers", 2)
    assert ran.returncode == 2
    assert "192.0.2.1:0: cannot listen for agents" in ran.stderr


def test_a_name_with_two_addresses_is_listened_on_at_both(
    start_workers: Callable[..., Proxy],
) -> None:
    proxy = start_workers(arguments=["--listen", "localhost:0"])
    found = socket.getaddrinfo("localhost", proxy.address[1], type=socket.SOCK_STREAM)
    for family, kind, _, _, address in found:
        with socket.socket(family, kind) as client:
            client.connect(address)
