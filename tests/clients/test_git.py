"""git over https: asked without a credential, challenged, then Basic; packs of any size."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.clients.conftest import IN_BOTH
from tests.clients.git_server import basic, make_repository, serve_git
from tests.clients.sandbox import Exchange, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.upstream import Upstream

URL = "https://github.com/acme/tool.git"
USER = "x-access-token"
POLICY = {
    "connections": {"github-bot": {"provider": "github", "secret": {"env": "GITHUB_TOKEN"}}},
    "allow": [{"name": "repos", "connection": "github-bot", "paths": ["/acme/**"]}],
}
SWAPPED = (("GITHUB_TOKEN", "basic:password"),)
REFS = "/acme/tool.git/info/refs"
# Over git's http.postBuffer of 1 MiB, so that the push is chunked, after a probe request.
PACK_BYTES = 1_500_000
# How a person sets git up for a token in the environment.
HELPER = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "credential.https://github.com.helper",
    "GIT_CONFIG_VALUE_0": f'!f() {{ echo username={USER}; echo "password=$GITHUB_TOKEN"; }}; f',
    "GIT_TERMINAL_PROMPT": "0",
}


@pytest.fixture
def git(program: Callable[[str], str]) -> str:
    return program("git")


@pytest.fixture
def upstream(
    start_upstream: Callable[..., Upstream], git: str, tmp_path: Path, secret: str
) -> Upstream:
    make_repository(tmp_path / "served", git)
    handler = serve_git(tmp_path / "served", git, basic(USER, secret))
    return start_upstream("github.com", handler=handler)


@pytest.fixture
def sandbox(enter_sandbox: Callable[..., Sandbox], upstream: Upstream, secret: str) -> Sandbox:
    return enter_sandbox(POLICY, [upstream], {"GITHUB_TOKEN": secret})


def commit(git: str, folder: Path) -> bytes:
    """A repository with one commit that does not compress; returns its file."""
    content = os.urandom(PACK_BYTES)
    folder.mkdir()
    (folder / "data.bin").write_bytes(content)
    identity = ["-c", "user.name=Agent", "-c", "user.email=agent@corp.example"]
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "data.bin"],
        [*identity, "commit", "--quiet", "-m", "data"],
    ):
        environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        subprocess.run([git, *arguments], cwd=folder, check=True, env=environ)
    return content


def check(upstream: Upstream, secret: str, *placeholders: str) -> None:
    """Every request carried no credential or the right one, and no placeholder arrived."""
    for received in upstream.requests:
        assert received.headers("authorization") in ([], [basic(USER, secret)])
    for placeholder in placeholders:
        assert placeholder.encode() not in upstream.received
        assert basic(USER, placeholder).encode() not in upstream.received


@IN_BOTH
def test_git_pushes_and_clones_with_a_credential_helper(
    git: str, sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    content = commit(git, sandbox.home / "work")
    push = sandbox.run(git, "push", URL, "main", environ=HELPER, folder=sandbox.home / "work")
    pushed = len(upstream.requests)
    clone = sandbox.run(git, "clone", URL, "again", environ=HELPER)

    assert (sandbox.home / "again" / "data.bin").read_bytes() == content
    check(upstream, secret, push.environ["GITHUB_TOKEN"], clone.environ["GITHUB_TOKEN"])
    sizes = [len(r.body) for r in upstream.requests if r.target.endswith("/git-receive-pack")]
    assert min(sizes) == 4 < PACK_BYTES < max(sizes)
    assert any(
        r.header("transfer-encoding") == "chunked" and len(r.body) > PACK_BYTES
        for r in upstream.requests
    )
    exchanges = sandbox.exchanges()
    assert exchanges[:pushed] == [
        Exchange("GET", REFS, 401),
        Exchange("GET", REFS, 200, SWAPPED),
        Exchange("POST", "/acme/tool.git/git-receive-pack", 200, SWAPPED),
        Exchange("POST", "/acme/tool.git/git-receive-pack", 200, SWAPPED),
    ]
    assert exchanges[pushed : pushed + 2] == [
        Exchange("GET", REFS, 401),
        Exchange("GET", REFS, 200, SWAPPED),
    ]
    fetched = exchanges[pushed + 2 :]
    assert fetched
    assert set(fetched) == {Exchange("POST", "/acme/tool.git/git-upload-pack", 200, SWAPPED)}


def test_git_clones_with_the_token_in_its_url(
    git: str, sandbox: Sandbox, upstream: Upstream, secret: str
) -> None:
    url = URL.replace("//", f"//{USER}:$GITHUB_TOKEN@")
    ran = sandbox.run("sh", "-c", f'exec git clone "{url}" copy')
    assert (sandbox.home / "copy" / ".git").is_dir()
    check(upstream, secret, ran.environ["GITHUB_TOKEN"])
    assert sandbox.exchanges()[:2] == [
        Exchange("GET", REFS, 401),
        Exchange("GET", REFS, 200, SWAPPED),
    ]


def test_git_says_that_a_repository_is_not_allowed(
    git: str, sandbox: Sandbox, upstream: Upstream
) -> None:
    other = URL.replace("acme", "other")
    ran = sandbox.run(git, "clone", other, environ=HELPER | {"LC_ALL": "C"}, good=False)
    assert "403" in ran.stderr
    assert upstream.requests == []
    assert set(sandbox.denials()) == {"path_not_allowed"}


def test_git_clones_and_cannot_push_under_a_read_only_rule(
    git: str,
    enter_sandbox: Callable[..., Sandbox],
    upstream: Upstream,
    secret: str,
) -> None:
    rule = {"paths": [REFS, "/acme/tool.git/git-upload-pack"]}
    read_only = POLICY | {"allow": [{"name": "read", "connection": "github-bot"} | rule]}
    sandbox = enter_sandbox(read_only, [upstream], {"GITHUB_TOKEN": secret})
    commit(git, sandbox.home / "work")

    sandbox.run(git, "clone", URL, "copy", environ=HELPER)
    sandbox.run(git, "push", URL, "main", environ=HELPER, folder=sandbox.home / "work", good=False)

    assert not [r for r in upstream.requests if r.target.endswith("/git-receive-pack") if r.body]
    assert set(sandbox.denials()) == {"path_not_allowed"}
