"""An audit that cannot be written, or is written slowly: nothing is forwarded unrecorded."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import complete_policy
from tests.support.client import Answer, Wire
from tests.support.proxy import START_SECONDS, Proxy
from tests.support.upstream import Upstream

POLICY = {"allow": [{"name": "good", "hosts": ["good.example"]}]}
GET = "GET / HTTP/1.1\nHost: good.example"
UNDERSTUDY = str(Path(sys.executable).parent / "understudy")


@pytest.fixture
def good(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream("good.example")


def expect_refused(answer: Answer) -> None:
    assert (answer.status, answer.reason) == (503, "audit_unavailable")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_device_that_takes_nothing_refuses_every_request(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good], audit="/dev/full")
    with proxy.tunnel("good.example") as wire:
        expect_refused(wire.request(GET))
        expect_refused(wire.request(GET))
    assert proxy.admin("/healthz")[0] == 200
    assert good.connections == 0
    failed = 'understudy_audit_events_total{result="failed",sink="file"}'
    assert proxy.metrics()[failed] >= 2


@pytest.mark.parametrize("place", ["a folder", "no such folder", "a socket"])
def test_a_place_that_cannot_be_an_audit_file_stops_the_start_with_a_sentence(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"version": 1} | POLICY))
    audit = tmp_path / "audit"
    if place == "a folder":
        audit.mkdir()
    elif place == "no such folder":
        audit = tmp_path / "missing" / "audit.jsonl"
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(audit))
    ran = subprocess.run(
        [
            *(UNDERSTUDY, "run", "--policy", tmp_path / "policy.yaml", "--listen", "127.0.0.1:0"),
            *("--state-dir", tmp_path / "state", "--audit", audit),
        ],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert str(audit) in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_deleted_file_is_made_again_and_no_later_line_is_lost(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as wire:
        assert wire.request(GET).status == 200
        for _ in range(5):
            proxy.wait_for_events("request.finished")
            proxy.audit_file.unlink()
            assert wire.request(GET).status == 200
            assert len(proxy.events("request.decided")) == 1
    assert len(proxy.wait_for_events("request.finished")) == 1
    assert proxy.audit_file.stat().st_mode & 0o777 == 0o600


def test_a_renamed_file_loses_no_line_and_sighup_moves_on_at_once(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    """As logrotate does it, under load."""
    proxy = start_proxy(POLICY, upstreams=[good])
    rotated: list[Path] = []
    stop = threading.Event()
    answers: list[int] = []

    def load() -> None:
        with proxy.tunnel("good.example") as wire:
            while not stop.is_set():
                answers.append(wire.request(GET).status)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5):
        before = len(answers)
        proxy.wait_until(lambda before=before: len(answers) > before + 20)  # type: ignore[misc] # bound now
        target = proxy.folder / f"audit.{number}"
        proxy.audit_file.rename(target)
        rotated.append(target)
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_until(proxy.audit_file.exists)
    stop.set()
    for thread in threads:
        thread.join(30)
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(START_SECONDS) == 0
    lines = [
        json.loads(line)
        for file in [*rotated, proxy.audit_file]
        for line in file.read_bytes().splitlines()
    ]
    decided = [line["request_id"] for line in lines if line["event"] == "request.decided"]
    finished = [line["request_id"] for line in lines if line["event"] == "request.finished"]
    assert set(answers) == {200}
    assert len(decided) == len(set(decided)) == len(answers) == len(good.requests)
    assert sorted(decided) == sorted(finished)


def test_a_folder_in_the_files_place_refuses_until_it_is_gone(
    good: Upstream, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(POLICY, upstreams=[good])
    with proxy.tunnel("good.example") as wire:
        assert wire.request(GET).status == 200
        proxy.wait_for_events("request.finished")
        proxy.audit_file.rename(proxy.folder / "audit.old")
        proxy.audit_file.mkdir()
        proxy.process.send_signal(signal.SIGHUP)
        proxy.wait_until(lambda: wire.request(GET).status == 503)
        seen = len(good.requests)
        expect_refused(wire.request(GET))
        assert len(good.requests) == seen
        proxy.audit_file.rmdir()
        assert wire.request(GET).status == 200
    assert proxy.wait_for_events("request.finished")


class Piped:
    """`understudy run --audit -` whose standard output is a pipe that the test reads, or not."""

    def __init__(self, policy: dict[str, Any], folder: Path, engine: str) -> None:
        folder.mkdir()
        (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
        self._ready = folder / "ready.json"
        self._log = folder / "stderr.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(UNDERSTUDY, "run", "--policy", folder / "policy.yaml", "--audit", "-"),
                    *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
                    *("--state-dir", folder / "state", "--ready-file", self._ready),
                    *("--drain-seconds", "1", "--engine", engine),
                ],
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.reader = self.process.stdout
        self.proxy = Proxy(policy, folder / "view", engine)
        self.proxy.wait_until(self._is_ready)
        facts = json.loads(self._ready.read_text())
        host, _, port = facts["proxy"].rpartition(":")
        self.proxy.address = (host, int(port))
        self.proxy.admin_url = f"http://{facts['admin']}"
        self.proxy.ca_cert = facts["ca_cert"]

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return self._ready.exists()

    def tunnel(self) -> Wire:
        return self.proxy.tunnel("good.example")


@pytest.fixture
def piped(good: Upstream, upstream_ca_file: Path, tmp_path: Path, engine: str) -> Iterator[Piped]:
    policy = complete_policy(POLICY, [good], upstream_ca_file)
    piped = Piped(policy, tmp_path / "piped", engine)
    yield piped
    piped.process.kill()
    piped.process.wait()
    piped.reader.close()


def test_a_reader_that_stops_reading_stops_requests_and_not_the_proxy(
    good: Upstream, piped: Piped
) -> None:
    statuses: list[int] = []
    with piped.tunnel() as wire:
        while 503 not in statuses:
            statuses.append(wire.request(GET).status)
        assert set(statuses) == {200, 503}
        assert piped.proxy.admin("/healthz")[0] == 200
        assert piped.proxy.admin("/readyz")[0] == 503
        seen = len(good.requests)
        for _ in range(20):
            expect_refused(wire.request(GET))
        assert len(good.requests) == seen == statuses.count(200)
        read = bytearray()
        reading = threading.Thread(target=lambda: read.extend(piped.reader.read()))
        reading.start()
        piped.proxy.wait_until(lambda: piped.proxy.admin("/readyz")[0] == 200)
        assert wire.request(GET).status == 200
    piped.process.send_signal(signal.SIGTERM)
    assert piped.process.wait(START_SECONDS) == 0
    reading.join(START_SECONDS)
    lines = [json.loads(line) for line in bytes(read).splitlines()]
    allowed = [line for line in lines if line.get("verdict") == "allow"]
    assert len(allowed) == len(good.requests)
    assert lines[-1]["event"] == "proxy.stopped"


def test_sigterm_ends_a_proxy_whose_reader_has_stopped(good: Upstream, piped: Piped) -> None:
    with piped.tunnel() as wire:
        while wire.request(GET).status != 503:
            pass
        piped.process.send_signal(signal.SIGTERM)
        assert piped.process.wait(START_SECONDS) == 0


def test_a_reader_that_is_gone_stops_requests(good: Upstream, piped: Piped) -> None:
    with piped.tunnel() as wire:
        assert wire.request(GET).status == 200
        piped.reader.close()
        piped.proxy.wait_until(lambda: wire.request(GET).status == 503)
        seen = len(good.requests)
        expect_refused(wire.request(GET))
        assert len(good.requests) == seen
        assert piped.proxy.admin("/healthz")[0] == 200
