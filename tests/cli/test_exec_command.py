"""`understudy exec` as a process, with real children, signals and terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tests.cli.conftest import UNDERSTUDY, Ran, run_process
from tests.support.upstream import Upstream

SECRET = "sk-the-real-one-0123456789"
PRINT_ENVIRONMENT = "import os, json; print(json.dumps(dict(os.environ)))"
CALL = """\
import json, os, urllib.request
request = urllib.request.Request(
    "https://api.openai.com/v1/models",
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
)
print(urllib.request.urlopen(request).status)
"""
# Says which signals it gets; ends with 7 at SIGTERM.
LISTEN = """\
import os, signal, sys
def note(number, _):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGTERM:
        os._exit(7)
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGWINCH"):
    signal.signal(signal.Signals[name], note)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""

Exec = Callable[..., Ran]


@pytest.fixture
def run_exec(tmp_path: Path, policy_file: Path) -> Exec:
    """Run `exec` with a policy, a state directory and the real key in the environment."""

    def run(*command: str, options: tuple[object, ...] = (), **environ: str) -> Ran:
        return run_process(
            *("exec", "--policy", policy_file, "--state-dir", tmp_path / "state", *options),
            *("--", *command),
            environ={"OPENAI_API_KEY": SECRET, "GH_TOKEN": "ghp_real"} | environ,
        )

    return run


@pytest.fixture
def upstream(
    start_upstream: Callable[..., Upstream],
    policy_file: Path,
    upstream_ca_file: Path,
) -> Upstream:
    """api.openai.com on loopback, in the policy."""
    started = start_upstream("api.openai.com")
    policy = yaml.safe_load(policy_file.read_text())
    policy["upstream"] = {
        "ca_file": str(upstream_ca_file),
        "connect_to": {"api.openai.com:443": started.connect_to},
    }
    policy_file.write_text(yaml.safe_dump(policy))
    return started


def audit_of(state: Path) -> list[dict[str, Any]]:
    (file,) = state.glob("exec-*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_child_calls_with_a_placeholder_and_the_upstream_gets_the_key(
    run_exec: Exec, upstream: Upstream, tmp_path: Path
) -> None:
    ran = run_exec(sys.executable, "-c", CALL)
    assert (ran.code, ran.out) == (0, "200\n"), ran.err
    (request,) = upstream.requests
    assert request.header("authorization") == f"Bearer {SECRET}"
    assert ["api.openai.com", "gpt", "1", "1", "-"] in [
        line.split() for line in ran.err.splitlines()
    ]
    decided = [event for event in audit_of(tmp_path / "state") if "verdict" in event]
    assert [event["reason"] for event in decided] == ["allowed"]
    assert f"audit {tmp_path / 'state' / 'exec-'}" in ran.err


def test_the_child_has_the_proxy_and_placeholders_and_no_real_key(
    run_exec: Exec, tmp_path: Path
) -> None:
    ran = run_exec(
        sys.executable,
        "-c",
        PRINT_ENVIRONMENT,
        no_proxy="*",
        UNDERSTUDY_TOKEN="x",
        KEPT="yes",
    )
    environment = json.loads(ran.out)
    assert SECRET not in ran.out
    assert "ghp_real" not in ran.out
    assert environment["KEPT"] == "yes"
    assert environment["no_proxy"] == "127.0.0.1,localhost,::1"
    assert "UNDERSTUDY_TOKEN" not in environment
    assert environment["HTTPS_PROXY"].startswith("http://understudy:")
    assert Path(environment["SSL_CERT_FILE"]).is_file()


def test_placeholders_and_token_are_fresh_for_each_run_and_kept_nowhere(
    run_exec: Exec, tmp_path: Path
) -> None:
    first, second = (
        json.loads(run_exec(sys.executable, "-c", PRINT_ENVIRONMENT).out) for _ in range(2)
    )
    assert first["OPENAI_API_KEY"] != second["OPENAI_API_KEY"]
    assert first["HTTPS_PROXY"].partition("@")[0] != second["HTTPS_PROXY"].partition("@")[0]
    assert not (tmp_path / "state" / "placeholders.json").exists()


def test_a_caller_without_the_token_is_refused(run_exec: Exec, upstream: Upstream) -> None:
    script = (
        "import os, socket, urllib.parse\n"
        "proxy = urllib.parse.urlsplit(os.environ['HTTPS_PROXY'])\n"
        "stream = socket.create_connection((proxy.hostname, proxy.port))\n"
        "stream.sendall(b'CONNECT api.openai.com:443 HTTP/1.1\\r\\n')\n"
        "stream.sendall(b'Host: api.openai.com:443\\r\\n\\r\\n')\n"
        "print(stream.recv(12).decode())\n"
    )
    ran = run_exec(sys.executable, "-c", script)
    assert ran.out == "HTTP/1.1 407\n"
    assert "proxy_auth_required" in ran.err
    assert upstream.connections == 0


@pytest.mark.parametrize("code", [0, 1, 2, 42, 255])
def test_the_exit_code_is_the_childs(run_exec: Exec, code: int) -> None:
    assert run_exec("sh", "-c", f"exit {code}").code == code


def test_a_child_that_a_signal_ended_gives_128_and_its_number(run_exec: Exec) -> None:
    assert run_exec("sh", "-c", "kill -KILL $$").code == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_gives_127(run_exec: Exec) -> None:
    ran = run_exec("no-such-program")
    assert ran.code == 127
    assert "no-such-program: there is no such program" in ran.err


def test_a_command_that_cannot_be_run_gives_126(run_exec: Exec, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    assert run_exec(str(tmp_path / "plain")).code == 126
    assert run_exec(str(tmp_path)).code == 126


def test_output_and_input_are_the_childs_own(policy_file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [UNDERSTUDY, "exec", "--quiet", "--policy", policy_file, "--state-dir", tmp_path, "cat"],
        input=b"\x00\xffbytes",
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": "k", "GH_TOKEN": "k"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"\x00\xffbytes", b"")


def test_options_of_the_command_are_not_ours(run_exec: Exec) -> None:
    assert run_exec("echo", "--policy", "-q", "--help").out == "--policy -q --help\n"


def test_a_secret_that_is_not_there_is_said_at_once_and_the_child_runs(run_exec: Exec) -> None:
    ran = run_exec("echo", "ran", OPENAI_API_KEY="")
    assert (ran.code, ran.out) == (0, "ran\n")
    assert "warning connection openai: the environment variable OPENAI_API_KEY is empty" in ran.err


def test_with_a_bad_policy_the_child_never_starts(
    run_exec: Exec, policy_file: Path, tmp_path: Path
) -> None:
    policy_file.write_text("version: 1\nallow: [{name: x}]\nmode: no\n")
    ran = run_exec("touch", str(tmp_path / "started"))
    assert ran.code == 2
    assert f"error {policy_file}:" in ran.err
    assert not (tmp_path / "started").exists()


def test_a_warning_about_the_policy_is_shown(run_exec: Exec, policy_file: Path) -> None:
    policy_file.write_text(
        "version: 1\nallow: [{name: a, hosts: [a.example]}, {name: b, hosts: [a.example]}]\n"
    )
    assert f"warning {policy_file}:2" in run_exec("true").err


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--listen", "nonsense"), "'nonsense' is not an address"),
        (("--listen", "127.0.0.1:{port}"), "cannot listen for agents (Address already in use)"),
        (("--admin", "127.0.0.1:{port}"), "cannot listen for admin requests (Address already"),
        (("--admin", "nonsense"), "'nonsense' is not an address"),
        (("--state-dir", "/dev/null/x"), "/dev/null/x: Not a directory"),
        (("--ca-cert", "x"), "--ca-cert and --ca-key go together"),
        (("--ca-cert", "/none/c", "--ca-key", "/none/k"), "cannot read the CA's certificate"),
        (("--audit", "/none/x"), "the audit log cannot be written"),
        (("--ready-file", "/none/x"), "--ready-file: there is no folder /none"),
        (("--proxy-token-file", "/none/x"), "--proxy-token-file: /none/x cannot be read"),
        (("--admin-token-file", "/dev/null"), "shorter than 16 characters"),
        (("--audit-failure", "perhaps"), "Invalid value for '--audit-failure'"),
        (("--drain-seconds", "-1"), "Invalid value for '--drain-seconds'"),
        (("--policy", "/none/x"), "/none/x does not exist"),
        (("--bogus",), "No such option"),
    ],
)
def test_slips_get_a_sentence_exit_code_2_and_no_child(
    run_exec: Exec, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with taken_port() as port:
        ran = run_exec(
            "touch",
            str(tmp_path / "started"),
            options=tuple(option.format(port=port) for option in options),
        )
    assert (ran.code, ran.out) == (2, "")
    assert message in " ".join(ran.err.split())
    assert not (tmp_path / "started").exists()


def test_without_a_command_it_is_wrong_usage(run_exec: Exec) -> None:
    ran = run_exec()
    assert ran.code == 2
    assert "Missing argument" in ran.err


def test_the_ready_file_and_the_admin_server_are_there_while_the_child_runs(
    run_exec: Exec, tmp_path: Path
) -> None:
    ready = tmp_path / "ready.json"
    script = (
        "import json, sys, urllib.request\n"
        "facts = json.load(open(sys.argv[1]))\n"
        "print(urllib.request.urlopen('http://' + facts['admin'] + '/readyz').status)\n"
    )
    options = ("--admin", "127.0.0.1:0", "--ready-file", ready)
    ran = run_exec(sys.executable, "-c", script, str(ready), options=options)
    assert ran.out == "200\n", ran.err


# -- signals


@contextmanager
def listening(
    policy_file: Path, tmp_path: Path, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """`exec` with a child that says which signals it gets."""
    command = [UNDERSTUDY, "exec", "--quiet", "--policy", policy_file, "--state-dir", tmp_path]
    with subprocess.Popen(
        [*command, sys.executable, "-c", LISTEN],
        env={"PATH": os.environ["PATH"], "OPENAI_API_KEY": "k", "GH_TOKEN": "k"},
        stdout=subprocess.PIPE,
        **options,
    ) as process:
        try:
            assert next_line(process) == "ready"
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGWINCH"])
def test_a_signal_to_exec_alone_goes_on_to_the_child_once(
    policy_file: Path, tmp_path: Path, name: str
) -> None:
    with listening(policy_file, tmp_path, start_new_session=True) as process:
        process.send_signal(signal.Signals[name])
        assert next_line(process) == name
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "SIGTERM"
        assert process.wait(30) == 7


@contextmanager
def terminal() -> Iterator[tuple[int, Callable[[], None]]]:
    """A pseudo-terminal: (our end, what makes it the child's controlling terminal)."""
    ours, theirs = pty.openpty()

    def adopt() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    try:
        yield ours, adopt
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
@pytest.mark.parametrize(("key", "name"), [(b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")])
def test_a_key_of_the_terminal_reaches_the_child_once_and_exec_goes_on(
    policy_file: Path, tmp_path: Path, key: bytes, name: str
) -> None:
    with terminal() as (ours, adopt), listening(policy_file, tmp_path, preexec_fn=adopt) as process:
        # Held back, so that a copy from exec could not melt into the terminal's own signal.
        process.send_signal(signal.SIGSTOP)
        os.write(ours, key)
        assert next_line(process) == name
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "SIGTERM"
        assert process.wait(30) == 7


def test_exec_waits_for_a_child_that_ignores_the_signal(policy_file: Path, tmp_path: Path) -> None:
    with listening(policy_file, tmp_path, start_new_session=True) as process:
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            assert next_line(process) == "SIGINT"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7


def test_the_operators_token_is_used_where_one_is_given(run_exec: Exec, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef/+\n")
    ran = run_exec(
        "sh", "-c", "echo $HTTPS_PROXY", options=("--proxy-token-file", tmp_path / "token")
    )
    assert ran.out.startswith("http://understudy:0123456789abcdef%2F%2B@127.0.0.1:")


def test_a_bundle_with_the_upstreams_roots_is_what_the_child_gets(
    run_exec: Exec, upstream: Upstream, upstream_ca: trustme.CA
) -> None:
    ran = run_exec("sh", "-c", "cat $SSL_CERT_FILE")
    assert upstream_ca.cert_pem.bytes().decode().strip() in ran.out
