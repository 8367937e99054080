"""Proxies of several workers, and load on all of them."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from tests.support.client import REFUSED, Wire
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

WORKERS = 3
SECRET = "sk-real-workers-0123456789abcdef"
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several processes at one port are Linux's."""
    if sys.platform != "linux":
        for item in items:
            if "tests/workers" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="SO_REUSEPORT spreads on Linux only"))


@pytest.fixture
def good(start_upstream: Callable[..., Upstream]) -> Upstream:
    """The host that the policy allows and has a secret for."""
    return start_upstream("good.example")


@pytest.fixture
def start_workers(
    start_proxy: Callable[..., Proxy], good: Upstream
) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy of three workers before ``good``; other arguments are the proxy's."""
    proxies: list[Proxy] = []

    def start(policy: dict[str, Any] | None = None, **options: Any) -> Proxy:
        arguments = ["--workers", str(WORKERS), *options.pop("arguments", [])]
        environ = {"GOOD_KEY": SECRET} | options.pop("environ", {})
        proxy = start_proxy(
            policy or POLICY, upstreams=[good], arguments=arguments, environ=environ, **options
        )
        proxies.append(proxy)
        return proxy

    yield start
    for proxy in proxies:
        assert " failed with " not in proxy.log  # a task or a worker that met an exception


class Load:
    """Clients that ask without pause, each on one connection after another."""

    def __init__(self, proxy: Proxy, clients: int = 6, path: str = "/") -> None:
        self.answered: list[int] = []
        """The status of every answer that came whole."""
        self.broken = 0
        """Connections that ended otherwise."""
        self._proxy = proxy
        self._request = (
            f"GET {path} HTTP/1.1\nHost: good.example\nX-Key: {proxy.placeholder('good')}"
        )
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(30)

    def stop(self) -> None:
        """Ask no more than what is under way."""
        self._stop.set()

    def wait_for(self, more: int) -> None:
        """Wait for as many more answers."""
        wanted = len(self.answered) + more
        self._proxy.wait_until(lambda: len(self.answered) >= wanted)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                with self._proxy.wire() as wire:
                    assert wire.connect("good.example:443").status == 200
                    wire.start_tls("good.example")
                    for _ in range(5):
                        self.answered.append(wire.request(self._request).status)
            except REFUSED:
                self.broken += 1


@contextlib.contextmanager
def tunnels(proxy: Proxy, count: int) -> Iterator[list[Wire]]:
    """Open tunnels: so many that every worker has some."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(proxy.tunnel("good.example")) for _ in range(count)]
