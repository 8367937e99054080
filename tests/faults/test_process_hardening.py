"""What the process does about itself at start: closed memory, no core, no key log, safe files."""

from __future__ import annotations

import base64
import ctypes
import fcntl
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.support.proxy import Proxy

UNDERSTUDY = str(Path(sys.executable).parent / "understudy")
SECRET = "sk-real-hardened-0123456789abcdef"
POLICY = {
    "version": 1,
    "connections": {"openai": {"provider": "openai", "secret": {"env": "OPENAI_API_KEY"}}},
    "allow": [{"name": "gpt", "connection": "openai"}],
}
SNOOP = """\
import json, os
def attempt(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode("latin-1")
    except OSError as error:
        return type(error).__name__
own = {name: attempt(f"/proc/self/{name}") for name in ("environ", "maps")}
parents = {name: attempt(f"/proc/{os.getppid()}/{name}") for name in ("environ", "maps", "mem")}
umask = os.umask(0)
print(json.dumps({"own": own, "parents": parents, "umask": umask}))
"""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    return file


def without_privileges() -> None:
    """Before a program runs: root's right to look into any process is taken from it."""
    if os.geteuid() == 0:
        drop_from_bounding_set = 24
        for capability in (19, 21, 38):  # SYS_PTRACE, SYS_ADMIN, PERFMON
            ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


def run_understudy(
    *arguments: object, environ: dict[str, str] | None = None, home: Path
) -> subprocess.CompletedProcess[str]:
    # One process after another, no threads of ours: preexec_fn is safe here.
    return subprocess.run(
        [UNDERSTUDY, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "HOME": str(home)} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=without_privileges,
    )


@linux_only
def test_execs_child_cannot_read_the_real_key_out_of_its_parent(
    tmp_path: Path, policy_file: Path
) -> None:
    ran = run_understudy(
        *("exec", "--policy", policy_file, "--state-dir", tmp_path / "state"),
        *("--", sys.executable, "-c", SNOOP),
        environ={"OPENAI_API_KEY": SECRET},
        home=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert "OPENAI_API_KEY=sk-proj-" in seen["own"]["environ"]
    assert "[stack]" in seen["own"]["maps"]
    assert set(seen["parents"].values()) == {"PermissionError"}, seen["parents"]
    assert SECRET not in ran.stdout


def test_execs_child_has_the_umask_that_exec_was_started_with(
    tmp_path: Path, policy_file: Path
) -> None:
    ran = run_understudy(
        *("exec", "--policy", policy_file, "--state-dir", tmp_path / "state"),
        *("--", "sh", "-c", "umask"),
        environ={"OPENAI_API_KEY": SECRET},
        home=tmp_path,
    )
    before = os.umask(0)
    os.umask(before)
    assert int(ran.stdout, 8) == before, ran.stderr


@linux_only
def test_a_running_proxy_leaves_no_core_and_its_memory_is_closed(
    tmp_path: Path, policy_file: Path
) -> None:
    """Both processes have the same rights, so that nothing but the hardening is in the way."""
    ready = tmp_path / "ready.json"
    command = ["run", "--policy", policy_file, "--state-dir", tmp_path / "state"]
    command += ["--listen", "127.0.0.1:0", "--admin", "off", "--ready-file", ready]
    with subprocess.Popen(
        [UNDERSTUDY, *map(str, command)],
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": SECRET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=without_privileges,  # noqa: PLW1509 - no threads of ours
    ) as proxy:
        try:
            while not ready.exists():
                assert proxy.poll() is None
                time.sleep(0.01)
            assert resource.prlimit(proxy.pid, resource.RLIMIT_CORE)[0] == 0
            assert "Umask:\t0077\n" in Path(f"/proc/{proxy.pid}/status").read_text()
            snooping = subprocess.run(
                [sys.executable, "-c", SNOOP.replace("os.getppid()", str(proxy.pid))],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
                preexec_fn=without_privileges,
            )
        finally:
            proxy.terminate()
    seen = json.loads(snooping.stdout)
    assert set(seen["parents"].values()) == {"PermissionError"}, seen["parents"]


@linux_only
def test_a_standard_error_that_cannot_be_written_stops_nothing(
    tmp_path: Path, policy_file: Path, engine: str
) -> None:
    ready = tmp_path / "ready.json"
    command = ["run", "--engine", engine, "--policy", policy_file, "--ready-file", ready]
    command += ["--state-dir", tmp_path / "state", "--audit", tmp_path / "audit.jsonl"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [UNDERSTUDY, *map(str, command)],
            env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": SECRET},
            stderr=full,
        ) as proxy,
    ):
        while not ready.exists():
            assert proxy.poll() is None
            time.sleep(0.01)
        admin = json.loads(ready.read_text())["admin"]
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=30) as answer:
            assert answer.status == 200
        proxy.terminate()
        # 120 is what Python exits with where it cannot flush its standard error.
        assert proxy.wait(30) in (0, 120)


@linux_only
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
def test_closed_standard_descriptors_are_nothing_elses(
    start_proxy: Callable[..., Proxy], closed: tuple[int, ...]
) -> None:
    """Or what is meant for standard output or error goes to a client, say."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    proxy = start_proxy(
        POLICY,
        # The witness would hold a file of its own open there.
        environ={"OPENAI_API_KEY": SECRET, "UNDERSTUDY_SPY_FILE": ""},
        program=["sh", "-c", f'exec "{UNDERSTUDY}" "$@" {redirections}', "sh"],
    )
    descriptors = Path(f"/proc/{proxy.process.pid}/fd")
    for number in closed:
        assert (descriptors / str(number)).readlink() == Path(os.devnull)
    with proxy.wire() as wire:
        assert wire.connect("evil.example:443").status == 403
    proxy.process.terminate()
    assert proxy.process.wait(30) == 0
    assert proxy.events()[-1]["event"] == "proxy.stopped"


def test_an_audit_that_would_go_to_a_closed_standard_output_stops_the_start(
    tmp_path: Path, policy_file: Path, engine: str
) -> None:
    command = f'exec "{UNDERSTUDY}" run --engine {engine} --audit - "$@" <&- >&-'
    ran = subprocess.run(
        [
            *("sh", "-c", command, "sh", "--policy", policy_file, "--listen", "127.0.0.1:0"),
            *("--state-dir", tmp_path / "state", "--admin", "off"),
        ],
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "standard output" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_copy_of_a_secret_is_in_the_environment_of_execs_child(
    tmp_path: Path, policy_file: Path
) -> None:
    """Whatever its name, and however it is written down there."""
    copies = {
        "COPY_OF_THE_KEY": SECRET,
        "HEADERS": f"Authorization: Bearer {SECRET}",
        "BASIC": base64.b64encode(f"user:{SECRET}".encode()).decode(),
        "CONFIGURATION": json.dumps({"keys": [SECRET]}),
    }
    ran = run_understudy(
        *("exec", "--policy", policy_file, "--state-dir", tmp_path / "state", "--", "env"),
        environ={"OPENAI_API_KEY": SECRET, "HARMLESS": "stays"} | copies,
        home=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    names = {line.partition("=")[0] for line in ran.stdout.splitlines()}
    assert {"OPENAI_API_KEY", "HARMLESS"} <= names
    assert not names & copies.keys()
    assert SECRET not in ran.stdout


def test_a_secret_in_the_command_line_of_execs_child_is_refused(
    tmp_path: Path, policy_file: Path
) -> None:
    ran = run_understudy(
        *("exec", "--policy", policy_file, "--state-dir", tmp_path / "state"),
        *("--", "echo", "-H", f"Authorization: Bearer {SECRET}"),
        environ={"OPENAI_API_KEY": SECRET},
        home=tmp_path,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "argument 2" in ran.stderr
    assert SECRET not in ran.stderr


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="Linux's pipes have a size")
def test_a_standard_error_that_nobody_reads_holds_nothing_up(
    tmp_path: Path, start_proxy: Callable[..., Proxy]
) -> None:
    """As with a program that starts the proxy with a pipe and forgets it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 8192)
    try:
        proxy = start_proxy(
            POLICY,
            environ={"OPENAI_API_KEY": SECRET},
            faults=True,
            program=["sh", "-c", f'exec "{UNDERSTUDY}" "$@" 2>"{pipe}"', "sh"],
        )
        with proxy.sabotage("Tunnel.http_connect"):
            for _ in range(100):
                with proxy.wire() as wire:
                    assert wire.connect("evil.example:443").status == 503
        with proxy.wire() as wire:
            assert wire.connect("evil.example:443").status == 403
        proxy.process.terminate()
        assert proxy.process.wait(30) == 0
        assert b"hook http_connect failed" in os.read(reader, 1 << 16)
    finally:
        os.close(reader)


def test_no_secret_is_in_the_command_line_or_outside_the_state_directory(
    start_proxy: Callable[..., Proxy],
) -> None:
    proxy = start_proxy(POLICY, environ={"OPENAI_API_KEY": SECRET})
    assert SECRET not in " ".join(map(str, proxy.process.args))  # type: ignore[arg-type] # a list
    written = [file.read_bytes() for file in proxy.folder.rglob("*") if file.is_file()]
    assert not [data for data in written if SECRET.encode() in data]


def test_what_the_proxy_writes_is_its_own_but_for_what_a_sandbox_needs(
    start_proxy: Callable[..., Proxy],
) -> None:
    proxy = start_proxy(POLICY, environ={"OPENAI_API_KEY": SECRET})
    modes = {
        str(path.relative_to(proxy.state)): path.stat().st_mode & 0o777
        for path in proxy.state.rglob("*")
    }
    shared = {"public": 0o755, "public/ca.crt": 0o644, "public/bundle.pem": 0o644}
    assert {name: modes.pop(name) for name in shared} == shared
    assert modes.pop("ca/ca.crt") & 0o022 == 0  # the certificate, in a folder that is closed
    assert {name for name, mode in modes.items() if mode & 0o077} == set(), modes
    assert proxy.state.stat().st_mode & 0o777 == 0o700
    assert proxy.audit_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("variable", ["SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE"])
@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_key_log_is_refused(
    tmp_path: Path, policy_file: Path, command: str, variable: str
) -> None:
    log = tmp_path / "keys.log"
    ran = run_understudy(
        *(command, "--policy", policy_file, "--state-dir", tmp_path / "state"),
        *(("--", "true") if command == "exec" else ("--listen", "127.0.0.1:0")),
        environ={"OPENAI_API_KEY": SECRET, variable: str(log)},
        home=tmp_path,
    )
    assert ran.returncode == 2, ran.stderr
    assert variable in ran.stderr
    assert "Unset it" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not log.exists()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("", 0o770),
        ("", 0o702),
        ("", 0o1777),
        ("ca", 0o720),
        ("ca", 0o777),
        ("ca/ca.key", 0o640),
        ("ca/ca.key", 0o604),
        ("ca/ca.crt", 0o666),
        ("placeholders.json", 0o620),
    ],
)
def test_state_that_is_too_open_is_refused_with_a_sentence(
    start_proxy: Callable[..., Proxy], tmp_path: Path, policy_file: Path, name: str, mode: int
) -> None:
    environ = {"OPENAI_API_KEY": SECRET}
    proxy = start_proxy(POLICY, environ=environ)
    proxy.process.terminate()
    proxy.process.wait(30)
    place = proxy.state / name
    place.chmod(mode)
    ran = run_understudy(
        *("run", "--policy", policy_file, "--state-dir", proxy.state, "--listen", "127.0.0.1:0"),
        environ=environ,
        home=tmp_path,
    )
    assert ran.returncode == 2, ran.stderr
    assert str(place) in ran.stderr
    assert "chmod" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", ["", "ca", "placeholders.json"])
def test_state_of_another_user_is_refused(tmp_path: Path, policy_file: Path, name: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    place = state / name
    if name == "placeholders.json":
        place.write_text("{}")
    else:
        place.mkdir(exist_ok=True)
    os.chown(place, 65534, 65534)
    ran = run_understudy(
        *("run", "--policy", policy_file, "--state-dir", state, "--listen", "127.0.0.1:0"),
        home=tmp_path,
    )
    assert ran.returncode == 2, ran.stderr
    assert "another user" in ran.stderr


def test_root_is_warned(start_proxy: Callable[..., Proxy]) -> None:
    proxy = start_proxy(POLICY, environ={"OPENAI_API_KEY": SECRET})
    assert ("runs as root" in proxy.log_file.read_text()) == (os.geteuid() == 0)
