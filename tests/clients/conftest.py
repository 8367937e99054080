"""Sandboxes to run real clients in, and the clients that must be on the machine."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.sandbox import Sandbox, beside_sidecar, inside_exec
from tests.conftest import complete_policy
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.upstream import Upstream


def require(program: str, found: object, why: str = "it is not on this machine") -> None:
    """Skip where a client is missing; where CI is set, a missing client is a failure."""
    if found:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{program} cannot be tested: {why}")
    pytest.skip(f"{program}: {why}")


@pytest.fixture
def program() -> Callable[[str], str]:
    """The path of a program that the test needs: ``program("git")``."""

    def find(name: str) -> str:
        path = shutil.which(name)
        require(name, path)
        return str(path)

    return find


@pytest.fixture
def secret() -> str:
    """A real key: only the proxy and the upstream may have it."""
    return f"real-{secrets.token_hex(20)}"


# For the programs that `understudy exec` promises to carry.
IN_BOTH = pytest.mark.parametrize("enter_sandbox", ["run", "exec"], indirect=True)


@pytest.fixture
def enter_sandbox(
    request: pytest.FixtureRequest,
    start_proxy: Callable[..., Proxy],
    upstream_ca_file: Path,
    tmp_path: Path,
    engine: str,
) -> Callable[..., Sandbox]:
    """Make a sandbox: ``enter_sandbox(policy, [upstream], {"API_KEY": secret})``.

    It is beside a sidecar that wants to know its callers, so that every client shows that it can
    say who it is. With ``@IN_BOTH`` the test also runs with each program under `understudy exec`.
    """

    def enter(
        policy: dict[str, Any], upstreams: list[Upstream], real: Mapping[str, str]
    ) -> Sandbox:
        home = tmp_path / "home"
        if getattr(request, "param", "run") == "exec":
            complete = complete_policy(policy, upstreams, upstream_ca_file)
            return inside_exec(Proxy(complete, tmp_path / "exec", engine), home, real)
        token = tmp_path / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(16))
        proxy = start_proxy(
            policy,
            upstreams=upstreams,
            environ=dict(real),
            arguments=["--proxy-token-file", str(token)],
        )
        return beside_sidecar(proxy, home, real, token.read_text())

    return enter
