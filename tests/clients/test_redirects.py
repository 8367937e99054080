"""A redirect to another host is a request of its own: decided anew, and no credential follows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.sandbox import Exchange, Sandbox
from tests.support.upstream import Upstream, answer

if TYPE_CHECKING:
    from collections.abc import Callable

API = "api.corp.example"
STORE = "store.example.net"
FOREIGN = "evil.example.org"
SWAPPED = (("API_TOKEN", "header:authorization"),)
PROGRAMS = Path(__file__).parent / "programs"


def redirect_to(host: str) -> Callable[..., object]:
    return answer(
        f"HTTP/1.1 302 Found\r\nLocation: https://{host}/file?sig=1\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )


class Place:
    """An API that redirects, and the hosts that it redirects to."""

    def __init__(
        self,
        target: str,
        start_upstream: Callable[..., Upstream],
        enter_sandbox: Callable[..., Sandbox],
        secret: str,
    ) -> None:
        self.api = start_upstream(API, handler=redirect_to(target))
        self.other = start_upstream(target)
        policy = {
            "connections": {
                "api": {
                    "hosts": [API],
                    "carriers": [{"bearer": True}],
                    "secret": {"env": "API_TOKEN"},
                }
            },
            "allow": [
                {"name": "api", "connection": "api"},
                {"name": "store", "hosts": [STORE], "methods": ["GET"]},
            ],
        }
        self.sandbox = enter_sandbox(policy, [self.api, self.other], {"API_TOKEN": secret})


@pytest.fixture
def place(
    start_upstream: Callable[..., Upstream],
    enter_sandbox: Callable[..., Sandbox],
    secret: str,
) -> Callable[[str], Place]:
    return lambda target: Place(target, start_upstream, enter_sandbox, secret)


CURL = (
    'exec curl --silent --show-error --fail {options} -H "Authorization: Bearer $API_TOKEN" {url}'
)


def curl(*options: str) -> tuple[str, ...]:
    return "sh", "-c", CURL.format(options=" ".join(options), url=f"https://{API}/file")


def python(library: str) -> tuple[str, ...]:
    return sys.executable, str(PROGRAMS / f"follow_{library}.py"), f"https://{API}/file"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(curl("--location"), id="curl"),
        pytest.param(python("requests"), id="requests"),
        pytest.param(python("httpx"), id="httpx"),
    ],
)
def test_credential_stays_behind_when_a_client_follows_to_an_allowed_host(
    command: tuple[str, ...],
    place: Callable[[str], Place],
    program: Callable[[str], str],
    secret: str,
) -> None:
    program("curl")
    there = place(STORE)
    ran = there.sandbox.run(*command)
    assert ran.stdout == "hello"
    assert [r.header("authorization") for r in there.api.requests] == [f"Bearer {secret}"]
    (followed,) = there.other.requests
    assert followed.target == "/file?sig=1"
    assert followed.headers("authorization") == []
    assert secret.encode() not in there.other.received
    assert there.sandbox.exchanges() == [
        Exchange("GET", "/file", 302, SWAPPED),
        Exchange("GET", "/file", 200),
    ]
    assert there.sandbox.denials() == []


def test_placeholder_that_a_client_takes_along_is_refused(
    place: Callable[[str], Place], program: Callable[[str], str]
) -> None:
    program("curl")
    there = place(STORE)
    there.sandbox.run(*curl("--location-trusted"), good=False)
    assert len(there.api.requests) == 1
    assert there.other.requests == []
    assert there.sandbox.denials() == ["placeholder_wrong_host"]


def test_redirect_to_a_host_outside_the_policy_ends_at_the_proxy(
    place: Callable[[str], Place], program: Callable[[str], str]
) -> None:
    program("curl")
    there = place(FOREIGN)
    there.sandbox.run(*curl("--location"), good=False)
    assert len(there.api.requests) == 1
    assert there.other.connections == 0
    assert there.sandbox.denials() == ["host_not_allowed"]
