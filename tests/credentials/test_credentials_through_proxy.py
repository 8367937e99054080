"""The credential rules from a client's socket to an upstream's."""

from __future__ import annotations

import base64
from collections.abc import Callable

from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

KEYS = {
    "GIT_KEY": "real-git-0123456789",
    "SEARCH_KEY": "real/search+0123456789",
    "ALWAYS_KEY": "real-always-0123456789",
}
POLICY = {
    "connections": {
        "git": {
            "hosts": ["git.example"],
            "carriers": [{"bearer": True}, {"basic": "password"}],
            "secret": {"env": "GIT_KEY"},
        },
        "search": {
            "hosts": ["search.example"],
            "carriers": [{"query": "key"}],
            "secret": {"env": "SEARCH_KEY"},
        },
        "always": {
            "hosts": ["always.example"],
            "carriers": [{"basic": "password", "username": "robot"}],
            "secret": {"env": "ALWAYS_KEY"},
            "inject": "always",
        },
        "local": {"hosts": ["local.example"], "auth": {"type": "none"}},
    },
    "allow": [{"name": name, "connection": name} for name in ("git", "search", "always", "local")],
}


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_each_carrier_from_socket_to_socket(
    start_proxy: Callable[..., Proxy], start_upstream: Callable[..., Upstream]
) -> None:
    git, search, always, local = (
        start_upstream(f"{name}.example") for name in ("git", "search", "always", "local")
    )
    proxy = start_proxy(POLICY, upstreams=[git, search, always, local], environ=KEYS)

    user = proxy.placeholder("git")
    answer = proxy.request("GET", "git.example", "/r", headers={"Authorization": basic("me", user)})
    assert answer.status == 200
    assert git.requests[-1].header("authorization") == basic("me", KEYS["GIT_KEY"])

    answer = proxy.request("GET", "git.example", "/r")
    assert answer.status == 200
    assert git.requests[-1].header("authorization") is None

    key = proxy.placeholder("search")
    answer = proxy.request("GET", "search.example", f"/s?q=a%20b&key={key}&n=1")
    assert answer.status == 200
    assert search.requests[-1].target == "/s?q=a%20b&key=real%2Fsearch%2B0123456789&n=1"

    answer = proxy.request("GET", "always.example", "/")
    assert answer.status == 200
    assert always.requests[-1].header("authorization") == basic("robot", KEYS["ALWAYS_KEY"])

    dummy = {"Authorization": "Bearer dummy", "X-Api-Key": "dummy", "Accept": "*/*"}
    answer = proxy.request("GET", "local.example", "/v1?api_key=dummy&m=1", headers=dummy)
    assert answer.status == 200
    assert local.requests[-1].header("authorization") is None
    assert local.requests[-1].header("x-api-key") is None
    assert local.requests[-1].target == "/v1?m=1"

    written = proxy.everything_written()
    for secret in (*KEYS.values(), "real%2Fsearch", KEYS["GIT_KEY"][1:-1]):
        assert secret.encode() not in written
    decided = str(proxy.events("request.decided"))
    assert key not in decided
    assert user not in decided
