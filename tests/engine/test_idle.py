"""A proxy that serves has imported what it uses, and is small."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream, answer_echo

pytestmark = pytest.mark.engine("express")

PROGRAM = [sys.executable, str(Path(__file__).parent / "programs" / "with_modules.py")]
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [
        {"name": "good", "connection": "good"},
        {"name": "others", "hosts": ["*.packages.example"]},
    ],
}
NEVER = (
    "aiohttp.client",
    "aiohttp.connector",
    "anyio",
    "flask",
    "h11",
    "ldap3",
    "mitmproxy.command",
    "mitmproxy.master",
    "mitmproxy.proxy.layer",
    "mitmproxy.proxy.layers",
    "mitmproxy.proxy.server",
    "mitmproxy.tools",
    "mitmproxy_rs.mitmproxy_rs",
    "pyparsing",
    "rich",
    "ruamel.yaml.main",
    "tornado",
    "urwid",
    "wsproto.connection",
)
MOST_IDLE_MEGABYTES = 80


def test_what_is_not_used_is_never_imported(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    written = tmp_path / "modules"
    good = start_upstream("good.example", handler=answer_echo)
    proxy = start_proxy(
        POLICY,
        upstreams=[good],
        program=PROGRAM,
        arguments=["--workers", "1"],
        environ={"GOOD_KEY": "sk-real-0123456789", "MODULES": str(written)},
    )
    key = {"X-Api-Key": proxy.placeholder("good")}
    assert proxy.request("GET", "good.example", "/a", headers=key).status == 200
    for page in ("/healthz", "/readyz", "/status", "/metrics"):
        assert proxy.admin(page)
    proxy.__exit__()
    imported = set(written.read_text().split())
    assert {"understudy.express.engine", "aiohttp.web", "mitmproxy.http"} <= imported
    assert sorted(imported.intersection(NEVER)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_an_idle_proxy_takes_less_than_eighty_megabytes(
    start_proxy: Callable[..., Proxy],
) -> None:
    def measure() -> float:
        proxy = start_proxy(POLICY, arguments=["--workers", "1"], environ={"GOOD_KEY": "sk-real"})
        status = Path(f"/proc/{proxy.process.pid}/status").read_text()
        resident = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert resident
        proxy.__exit__()
        return int(resident.group(1)) / 1024

    # Whoever starts first after a change compiles, which takes memory of its own.
    assert min(measure() for _ in range(2)) < MOST_IDLE_MEGABYTES
