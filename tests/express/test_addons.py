"""Addons that mitmproxy ships run unchanged on express, and hear what they would hear."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream, answer_echo

pytestmark = pytest.mark.engine("express")

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(Path(__file__).parent / "programs" / "with_addons.py")]
SECRET = "sk-real-behind-other-addons-0123456789"
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good", "methods": ["GET", "POST"]}],
}


@pytest.fixture
def start(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> Callable[..., tuple[Proxy, Upstream]]:
    def start_it(engine: str = "express", **environ: str) -> tuple[Proxy, Upstream]:
        good = start_upstream("good.example", handler=answer_echo)
        proxy = start_proxy(
            POLICY,
            upstreams=[good],
            program=PROGRAM,
            arguments=["--engine", engine, "--workers", "1"],
            environ={"GOOD_KEY": SECRET, "DIARY": str(tmp_path / "diary"), **environ},
        )
        return proxy, good

    return start_it


def test_modify_headers_changes_what_goes_up_and_what_comes_back(
    start: Callable[..., tuple[Proxy, Upstream]],
) -> None:
    patterns = ["/~q/X-Team/red", "/~q/User-Agent/", "/~s & ~c 200/X-Seen/yes", "/~m PUT/X-No/x"]
    proxy, good = start(MODIFY="\n".join(patterns))
    headers = {"X-Api-Key": proxy.placeholder("good"), "User-Agent": "agent", "X-Team": "blue"}
    answered = proxy.request("POST", "good.example", "/a", headers=headers, body=b"hello")
    (received,) = good.requests
    assert received.headers("x-team") == ["red"]
    assert received.headers("user-agent") == received.headers("x-no") == []
    assert received.header("x-api-key") == SECRET
    assert received.body == b"hello"
    assert answered.header("x-seen") == "yes"
    assert answered.body.endswith(b"hello")
    assert SECRET.encode() not in answered.body


def test_save_har_writes_every_exchange_with_its_times(
    start: Callable[..., tuple[Proxy, Upstream]], tmp_path: Path
) -> None:
    har = tmp_path / "all.har"
    proxy, _ = start(HAR=str(har))
    with proxy.tunnel("good.example") as wire:
        for path in ("/first?x=1", "/second"):
            wire.request(f"GET {path} HTTP/1.1\nHost: good.example")
        assert wire.request("PUT /denied HTTP/1.1\nHost: good.example").status == 403
    proxy.wait_until(lambda: proxy.open_connections() == 0)
    proxy.__exit__()
    entries = json.loads(har.read_text())["log"]["entries"]
    assert [(e["request"]["method"], e["request"]["url"]) for e in entries] == [
        ("GET", "https://good.example/first?x=1"),
        ("GET", "https://good.example/second"),
        ("PUT", "https://good.example/denied"),
    ]
    assert [e["response"]["status"] for e in entries] == [200, 200, 403]
    first, second, denied = entries
    assert first["request"]["queryString"] == [{"name": "x", "value": "1"}]
    assert first["serverIPAddress"] == "127.0.0.1"
    assert all(value >= 0 for value in first["timings"].values()), first["timings"]
    # It went up on the connection that was there.
    assert second["timings"]["connect"] == second["timings"]["ssl"] == -1
    assert denied["response"]["content"]["mimeType"] == "application/json"


NOT_OFFERED = {"next_layer", "tls_start_client", "tls_start_server", "tls_established_server"}
"""What mitmproxy calls for this request and express does not."""


def test_hooks_come_in_the_order_in_which_mitmproxy_calls_them(
    start: Callable[..., tuple[Proxy, Upstream]], tmp_path: Path
) -> None:
    diaries = {}
    for engine in ("express", "mitmproxy"):
        proxy, _ = start(engine, DIARY=str(tmp_path / engine))
        assert proxy.request("POST", "good.example", body=b"x").status == 200
        proxy.wait_until(lambda proxy=proxy: proxy.open_connections() == 0)
        proxy.__exit__()
        diaries[engine] = [
            name
            for name in (tmp_path / engine).read_text().split()
            if name not in NOT_OFFERED | {"load", "configure", "add_log"}
        ]
    # A pooled connection outlives its client.
    ends = {"client_disconnected", "server_disconnected", "done"}
    orders = [[name for name in diary if name not in ends] for diary in diaries.values()]
    assert orders[0] == orders[1]
    assert orders[0] == [
        "running",
        "client_connected",
        "http_connect",
        "http_connected",
        "tls_clienthello",
        "tls_established_client",
        "requestheaders",
        "server_connect",
        "server_connected",
        "request",
        "responseheaders",
        "response",
    ]
    for diary in diaries.values():
        assert sorted(diary[len(orders[0]) :]) == sorted(ends)


def test_the_hooks_that_the_docs_offer_are_those_that_are_called() -> None:
    called = set()
    for file in (ROOT / "addons/understudy/express").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("hooks.call"):
                called.add(ast.literal_eval(node.args[0]))
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    offered = re.search(r"Hooks that `express` offers: (.*?)\.\s", text, re.DOTALL)
    assert offered is not None
    assert set(re.findall(r"`(\w+)`", offered[1])) == called
