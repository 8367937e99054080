from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.conftest import run_process

# The console script with one function of the proxy broken.
SABOTAGE = """\
import sys
from understudy.cli import main
from understudy.credentials import judge
from understudy.stages import swap

def leave_the_placeholder(head, plan, secret, **_):
    return head

swap.apply = leave_the_placeholder
sys.argv = ["understudy", "demo"]
main()
"""


def test_the_demo_works_without_network_and_leaves_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    ran = run_process("demo", environ={"TMPDIR": str(tmp_path), "HOME": str(tmp_path)})
    assert ran.code == 0, ran.out + ran.err
    assert time.monotonic() - started < 10
    assert "FAIL" not in ran.out
    assert ran.out.count("\nok  ") == 9
    assert "All as promised" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_the_demo_shows_both_sides_the_denial_and_the_audit(tmp_path: Path) -> None:
    out = run_process("demo", environ={"TMPDIR": str(tmp_path)}).out
    for expected in ("sk-ant-api03-", "sk-proj-", "REAL-", "litellm.internal saw", "PONG"):
        assert expected in out
    assert 'details="host_not_allowed"' in out
    assert out.replace("\n", "").count('"schema":"understudy.audit/1"') == 3


def test_the_demo_is_not_touched_by_the_users_own_settings(tmp_path: Path) -> None:
    environ = {
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "SSL_CERT_FILE": "/dev/null",
        "UNDERSTUDY_LLM_GATEWAY_URL": "https://elsewhere.example",
        "ANTHROPIC_API_KEY": "sk-ant-of-the-user",
    }
    ran = run_process("demo", environ=environ)
    assert ran.code == 0, ran.out
    assert "sk-ant-of-the-user" not in ran.out


def test_the_demo_fails_where_the_proxy_does_not_keep_its_promise(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SABOTAGE],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "FAIL api.anthropic.com saw the real key" in done.stdout
    assert "Something is not as it should be" in done.stdout
