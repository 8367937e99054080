"""curl again and again, a process each: with the proxy and without, on the way to one upstream."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from tests.conftest import complete_policy
from tests.support.distance import FAR, Distance
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

SECRET = "sk-real-far-away-0123456789abcdef"
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}


@dataclass(frozen=True)
class Trip:
    """One run of curl."""

    seconds: float
    """From its first packet to the answer's last byte, as curl says."""
    round_trips: int
    """To the upstream and back: for TCP, for TLS, for the request."""


class Road:
    """An upstream, far away if there is a distance, and a proxy that is near."""

    def __init__(self, upstream: Upstream, proxy: Proxy, ca_file: Path) -> None:
        self.upstream, self.proxy, self._ca_file = upstream, proxy, ca_file

    def go_directly(self) -> Trip:
        """With the real key and no proxy."""
        place = f"good.example:443:{self.upstream.connect_to}"
        return self._curl(SECRET, "--connect-to", place, "--cacert", str(self._ca_file))

    def go_through_proxy(self) -> Trip:
        """With the placeholder and the proxy."""
        key = self.proxy.placeholder("good")
        return self._curl(key, "--proxy", self.proxy.url, "--cacert", self.proxy.ca_cert)

    def _curl(self, key: str, *arguments: str) -> Trip:
        before = self._round_trips()
        done = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--fail", "--http1.1", "--max-time", "60"),
                *("--output", os.devnull, "--write-out", "%{time_total}"),
                *("--header", f"X-Api-Key: {key}", *arguments, "https://good.example/"),
            ],
            env={"PATH": os.environ["PATH"], "HOME": os.devnull},
            check=True,
            capture_output=True,
            text=True,
        )
        return Trip(float(done.stdout), self._round_trips() - before)

    def _round_trips(self) -> int:
        upstream = self.upstream
        return upstream.connections + upstream.handshakes + len(upstream.requests)


@contextmanager
def open_road(folder: Path, distance: Distance | None = None) -> Iterator[Road]:
    """Start an upstream and a proxy; across ``distance``, in the thread that it is of."""
    ca = trustme.CA()
    ca_file = folder / "upstream-ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    place = {"address": FAR, "namespace": distance.far} if distance is not None else {}
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream("good.example", ca, **place))  # type: ignore[arg-type] # as named
        proxy = Proxy(
            complete_policy(POLICY, [upstream], ca_file),
            folder / "proxy",
            "express",
            environ={"GOOD_KEY": SECRET},
            # Each worker has upstream connections of its own.
            arguments=["--workers", "1"],
        )
        yield Road(upstream, stack.enter_context(proxy), ca_file)
