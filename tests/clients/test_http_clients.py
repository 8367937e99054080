"""Plain HTTP clients send a placeholder; the upstream gets the real key, once, where it belongs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.conftest import IN_BOTH, require
from tests.clients.sandbox import Exchange, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.upstream import Upstream

PROGRAMS = Path(__file__).parent / "programs"
HOST = "search.corp.example"
URL = f"https://{HOST}/find?q=1"
BODY = "question " * 8000
POLICY = {
    "connections": {
        "search": {
            "hosts": [HOST],
            "carriers": [{"header": "X-Search-Key"}],
            "secret": {"env": "SEARCH_KEY"},
        }
    },
    "allow": [{"name": "search", "connection": "search", "paths": ["/find"]}],
}


@pytest.fixture
def upstream(start_upstream: Callable[..., Upstream]) -> Upstream:
    return start_upstream(HOST)


@pytest.fixture
def sandbox(enter_sandbox: Callable[..., Sandbox], upstream: Upstream, secret: str) -> Sandbox:
    return enter_sandbox(POLICY, [upstream], {"SEARCH_KEY": secret})


def check(sandbox: Sandbox, upstream: Upstream, secret: str, placeholder: str) -> None:
    """A GET and a POST went up with the secret in its header, and the audit says so."""
    assert [(r.method, r.target, r.body.decode()) for r in upstream.requests] == [
        ("GET", "/find?q=1", ""),
        ("POST", "/find?q=1", BODY),
    ]
    for received in upstream.requests:
        assert received.header("x-search-key") == secret
    assert upstream.received.count(secret.encode()) == 2
    assert placeholder.encode() not in upstream.received
    swapped = (("SEARCH_KEY", "header:x-search-key"),)
    assert sandbox.exchanges() == [
        Exchange("GET", "/find", 200, swapped),
        Exchange("POST", "/find", 200, swapped),
    ]
    assert sandbox.denials() == []


@pytest.mark.parametrize("library", ["requests", "httpx", "aiohttp", "urllib"])
def test_python_library_works_unchanged(
    library: str, sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    ran = sandbox.run(sys.executable, PROGRAMS / f"with_{library}.py", URL, BODY)
    assert ran.json == [[200, "hello"], [200, "hello"]]
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


# Both requests in one process, and the key only in the environment: as a shell script has it.
CURL = """
curl --silent --show-error --fail -H "X-Search-Key: $SEARCH_KEY" "$1"
exec curl --silent --show-error --fail -H "X-Search-Key: $SEARCH_KEY" --data-raw "$2" "$1"
"""


@IN_BOTH
def test_curl_works_unchanged(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    program("curl")
    ran = sandbox.run("sh", "-c", CURL, "sh", URL, BODY)
    assert ran.stdout == "hellohello"
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


# wget reads no variable for a CA bundle, only its own option.
WGET = """
wget --quiet --output-document=- --ca-certificate="$SSL_CERT_FILE" \
  --header="X-Search-Key: $SEARCH_KEY" "$1"
exec wget --quiet --output-document=- --ca-certificate="$SSL_CERT_FILE" \
  --header="X-Search-Key: $SEARCH_KEY" --post-data="$2" "$1"
"""


def test_wget_works_with_its_own_ca_option(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    program("wget")
    ran = sandbox.run("sh", "-c", WGET, "sh", URL, BODY)
    assert ran.stdout == "hellohello"
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


@IN_BOTH
def test_node_https_works_through_a_tunnel_agent(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    ran = sandbox.run(program("node"), PROGRAMS / "with_https.cjs", URL, BODY)
    assert ran.json == [[200, "hello"], [200, "hello"]]
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


def test_node_fetch_works_with_undici_environment_agent(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    # npm brings an undici of its own: no package has to be installed for this test.
    node, npm = program("node"), Path(program("npm")).resolve()
    folders = (folder / "node_modules" / "undici" for folder in npm.parents)
    undici = next((folder for folder in folders if folder.is_dir()), None)
    require("undici", undici, "npm's own copy is not where it is expected")
    ran = sandbox.run(node, PROGRAMS / "with_fetch.cjs", URL, BODY, environ={"UNDICI": str(undici)})
    assert ran.json == [[200, "hello"], [200, "hello"]]
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


def node_reads_proxy_variables() -> bool:
    """Whether node's own fetch heeds NODE_USE_ENV_PROXY: from 22.21 and from 24.0."""
    node = shutil.which("node")
    if node is None:
        return False
    version = subprocess.run([node, "-p", "process.versions.node"], capture_output=True, check=True)
    major, minor, _ = (int(part) for part in version.stdout.split(b"."))
    return major >= 24 or (major, minor) >= (22, 21)


@pytest.mark.skipif(
    not node_reads_proxy_variables(), reason="node's fetch reads proxy variables from 22.21"
)
def test_node_fetch_works_unchanged(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    ran = sandbox.run(program("node"), PROGRAMS / "with_fetch.cjs", URL, BODY)
    assert ran.json == [[200, "hello"], [200, "hello"]]
    check(sandbox, upstream, secret, ran.environ["SEARCH_KEY"])


def test_client_prints_why_it_was_denied(
    program: Callable[[str], str], sandbox: Sandbox, upstream: Upstream
) -> None:
    ran = sandbox.run(program("curl"), "--silent", f"https://{HOST}/admin")
    assert json.loads(ran.stdout)["understudy"]["reason"] == "path_not_allowed"
    assert upstream.requests == []
    assert sandbox.denials() == ["path_not_allowed"]
