"""pip, uv and npm install from a company mirror that wants a credential."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.conftest import IN_BOTH, require
from tests.clients.git_server import basic
from tests.clients.packages import TARBALL, WHEEL, serve_npm_registry, serve_python_index
from tests.clients.sandbox import Exchange, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.upstream import Upstream

INDEX = "packages.corp.example"
INDEX_URL = f"https://__token__:$INDEX_TOKEN@{INDEX}/simple/"
INDEX_POLICY = {
    "connections": {
        "mirror": {"provider": "python-index", "hosts": [INDEX], "secret": {"env": "INDEX_TOKEN"}}
    },
    "allow": [{"name": "packages", "connection": "mirror", "methods": ["GET", "HEAD"]}],
}
REGISTRY = "npm.corp.example"
REGISTRY_POLICY = {
    "connections": {
        "mirror": {"provider": "npm-registry", "hosts": [REGISTRY], "secret": {"env": "NPM_TOKEN"}}
    },
    # npm asks for a scoped package as /@scope%2fname, and for its tarball below /@scope/.
    "allow": [
        {"name": "packages", "connection": "mirror", "paths": ["/@acme%2f*", "/@acme/**"]},
    ],
}


@pytest.fixture
def index(start_upstream: Callable[..., Upstream], secret: str) -> Upstream:
    return start_upstream(INDEX, handler=serve_python_index(basic("__token__", secret)))


@pytest.fixture
def python_sandbox(enter_sandbox: Callable[..., Sandbox], index: Upstream, secret: str) -> Sandbox:
    return enter_sandbox(INDEX_POLICY, [index], {"INDEX_TOKEN": secret})


def check_index(sandbox: Sandbox, index: Upstream, secret: str, placeholder: str) -> None:
    """The package is installed, and only the real password went to the index."""
    assert (sandbox.home / "site" / "acme_tool.py").read_text() == "ANSWER = 42\n"
    for received in index.requests:
        assert received.headers("authorization") in ([], [basic("__token__", secret)])
    assert placeholder.encode() not in index.received
    assert basic("__token__", placeholder).encode() not in index.received
    swapped = (("INDEX_TOKEN", "basic:password"),)
    exchanges = sandbox.exchanges()
    assert Exchange("GET", "/simple/acme-tool/", 200, swapped) in exchanges
    assert Exchange("GET", f"/files/{WHEEL}", 200, swapped) in exchanges
    assert all(exchange.swapped == swapped for exchange in exchanges if exchange.status == 200)
    assert sandbox.denials() == []


@IN_BOTH
def test_pip_installs_unchanged(python_sandbox: Sandbox, index: Upstream, secret: str) -> None:
    pip = f'"{sys.executable}" -m pip install --disable-pip-version-check --target site acme-tool'
    ran = python_sandbox.run("sh", "-c", f'PIP_INDEX_URL="{INDEX_URL}" exec {pip}')
    check_index(python_sandbox, index, secret, ran.environ["INDEX_TOKEN"])


def test_uv_installs_unchanged(python_sandbox: Sandbox, index: Upstream, secret: str) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{Path('/usr/bin')}")
    require("uv", uv)
    install = f'"{uv}" pip install --python "{sys.executable}" --target site acme-tool'
    ran = python_sandbox.run("sh", "-c", f'UV_DEFAULT_INDEX="{INDEX_URL}" exec {install}')
    check_index(python_sandbox, index, secret, ran.environ["INDEX_TOKEN"])


@IN_BOTH
def test_npm_installs_a_scoped_package_unchanged(
    program: Callable[[str], str],
    start_upstream: Callable[..., Upstream],
    enter_sandbox: Callable[..., Sandbox],
    secret: str,
) -> None:
    npm = program("npm")
    handler = serve_npm_registry(REGISTRY, f"Bearer {secret}")
    registry = start_upstream(REGISTRY, handler=handler)
    sandbox = enter_sandbox(REGISTRY_POLICY, [registry], {"NPM_TOKEN": secret})
    # As `actions/setup-node` and the registry's own manual write it.
    (sandbox.home / ".npmrc").write_text(
        f"registry=https://{REGISTRY}/\n//{REGISTRY}/:_authToken=${{NODE_AUTH_TOKEN}}\n"
        "audit=false\nfund=false\nupdate-notifier=false\n"
    )
    project = sandbox.home / "project"
    project.mkdir()
    (project / "package.json").write_text('{"name": "project", "version": "1.0.0"}')

    ran = sandbox.run(npm, "install", "@acme/left", folder=project)

    left = project / "node_modules" / "@acme" / "left" / "index.js"
    assert left.read_text() == "module.exports = 42\n"
    assert [r.target for r in registry.requests] == ["/@acme%2fleft", f"/@acme/left/-/{TARBALL}"]
    assert [r.header("authorization") for r in registry.requests] == [f"Bearer {secret}"] * 2
    assert ran.environ["NODE_AUTH_TOKEN"].encode() not in registry.received
    swapped = (("NPM_TOKEN", "header:authorization"),)
    assert sandbox.exchanges() == [
        Exchange("GET", "/@acme%2fleft", 200, swapped),
        Exchange("GET", f"/@acme/left/-/{TARBALL}", 200, swapped),
    ]
    assert sandbox.denials() == []
