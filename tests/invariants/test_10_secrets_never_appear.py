"""Invariant 10: real secrets never appear in bytes to the client, logs, audit, metrics, argv."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from tests.support.scene import Scene, expect_no_secret_written, forms_of
from tests.support.upstream import Upstream, answer_echo

from understudy.credentials.secret import Secret

FROM_FILE = "sk-real-from-a-file-0123456789abcd"
FROM_ENVIRONMENT = "sk-real-from-the-environment-9876"
TEXT = "sk-real-in-an-object-0123456789"


@pytest.mark.attack("telling errors")
def test_a_session_of_everything_shows_no_secret_anywhere(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    upstream_ca: trustme.CA,
    tmp_path: Path,
) -> None:
    """Swaps, echoes, denials, failures, a reload and a changed secret, then every output."""
    secret_file = tmp_path / "key"
    secret_file.write_text(FROM_FILE)
    echo = start_upstream("echo.example", handler=answer_echo)
    broken = start_upstream(
        "broken.example", certificate=echo.ca and echo.ca.issue_cert("x.example")
    )
    policy = {
        "connections": {
            "echo": {
                "hosts": ["echo.example"],
                "carriers": [{"header": "X-Api-Key"}, {"query": "key"}, {"basic": "password"}],
                "secret": {"file": str(secret_file)},
            },
            "broken": {
                "hosts": ["broken.example"],
                "carriers": [{"bearer": True}],
                "secret": {"env": "KEY"},
            },
        },
        "allow": [
            {"name": "echo", "connection": "echo"},
            {"name": "broken", "connection": "broken"},
        ],
    }
    owners = {FROM_FILE: ["echo.example"], FROM_ENVIRONMENT: ["broken.example"]}
    scene = start_scene(policy, [echo, broken], owners, environ={"KEY": FROM_ENVIRONMENT})
    key, bearer = scene.placeholder("echo"), f"Bearer {scene.placeholder('broken')}"
    assert scene.request("echo.example", headers=[("X-Api-Key", key)]).status == 200
    assert scene.request("echo.example", f"/?key={key}").status == 200
    assert scene.request("echo.example", headers=[("X-Debug", key)]).status == 403
    assert scene.request("echo.example", headers=[("Authorization", bearer)]).status == 403
    assert scene.request("broken.example", headers=[("Authorization", bearer)]).status == 502
    secret_file.write_text("")
    assert scene.request("echo.example", headers=[("X-Api-Key", key)]).status == 503
    scene.proxy.write_policy("nonsense: [" + FROM_FILE[:4])
    scene.proxy.wait_for_events("policy.rejected")
    scene.leave()
    expect_no_secret_written(scene.proxy, owners)
    process = Path(f"/proc/{scene.proxy.process.pid}")
    for secret in owners:
        for form in forms_of(secret):
            assert form not in (process / "cmdline").read_bytes()
            for file in scene.proxy.state.rglob("*"):
                assert not file.is_file() or form not in file.read_bytes(), file


def test_nothing_is_shown_when_the_proxy_stops(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., object]
) -> None:
    good = start_upstream("good.example")
    policy = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"bearer": True}],
                "secret": {"env": "KEY"},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    proxy = start_proxy(policy, upstreams=[good], environ={"KEY": FROM_ENVIRONMENT})
    bearer = {"Authorization": f"Bearer {proxy.placeholder('good')}"}
    assert proxy.request("GET", "good.example", headers=bearer).status == 200
    proxy.__exit__()
    written = proxy.log_file.read_bytes() + proxy.out_file.read_bytes()
    written += proxy.audit_file.read_bytes()
    assert FROM_ENVIRONMENT.encode() not in written
    assert b"Traceback" not in written
    assert b" failed with " not in written


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{:>40}".format,
        lambda secret: f"{secret!r}{secret!s}",
        "%s".__mod__,
        lambda secret: json.dumps({"key": secret}, default=str),
        lambda secret: repr([secret, {"key": secret}]),
        lambda secret: repr(vars(secret)) if hasattr(secret, "__dict__") else "",
    ],
)
def test_a_secret_shows_only_a_fingerprint(show: Callable[[Secret], str]) -> None:
    shown = show(Secret(TEXT, "KEY"))
    for length in range(6, len(TEXT)):
        assert TEXT[:length] not in shown


@pytest.mark.parametrize("copying", [pickle.dumps, copy.deepcopy, json.dumps])
def test_a_secret_is_not_carried_off_by_copying(copying: Callable[[object], object]) -> None:
    shown = b""
    try:
        copied = copying(Secret(TEXT, "KEY"))
        shown = copied if isinstance(copied, bytes) else repr(copied).encode()
    except Exception:  # noqa: BLE001 - a refusal is what is wanted, of whatever kind
        shown = traceback.format_exc().encode()
    assert TEXT.encode() not in shown
