"""The place where most attacks happen: hosts that are good, bound, allowed, or the attacker's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import trustme
from tests.support.proxy import Proxy
from tests.support.scene import expect_no_secret_written
from tests.support.upstream import Upstream

GOOD_SECRET = "sk-real-good-7f3a9c51e2d84b60"
TWIN_SECRET = "sk-real-twin-1b8e4d20f6a94c77"
SECRETS = {GOOD_SECRET: ("good.example",), TWIN_SECRET: ("twin.example",)}

POLICY: dict[str, Any] = {
    "version": 1,
    "connections": {
        "good": {
            "hosts": ["good.example", "*.good.example"],
            "carriers": [
                {"header": "X-Api-Key"},
                {"bearer": True},
                {"basic": "password"},
                {"query": "key"},
            ],
            "secret": {"env": "GOOD_KEY"},
        },
        "twin": {
            "hosts": ["twin.example"],
            "carriers": [{"bearer": True}],
            "secret": {"env": "TWIN_KEY"},
        },
    },
    "allow": [
        {"name": "good", "connection": "good"},
        {"name": "twin", "connection": "twin", "methods": ["GET", "POST"], "paths": ["/v1/**"]},
        {"name": "other", "hosts": ["other.example"]},
        {"name": "plain", "hosts": ["plain.example"], "schemes": ["http"]},
        {"name": "far", "hosts": ["127.0.0.1", "guarded.example"], "ports": [443, 8443]},
    ],
    "deny": [{"name": "no-secrets", "hosts": ["other.example"], "paths": ["/private/**"]}],
}
"""``good.example`` and ``evil.example`` share an address and a port; only the first is allowed."""


def with_key_in(file: Path) -> dict[str, Any]:
    """A policy for ``good.example`` alone, whose key stands in a file."""
    good = {
        "hosts": ["good.example"],
        "carriers": [{"header": "X-Api-Key"}],
        "secret": {"file": str(file)},
    }
    return {
        "connections": {"good": good},
        "allow": [{"name": "good", "connection": "good"}],
    }


class World:
    """The upstreams and one proxy for them."""

    def __init__(self, ca: trustme.CA, ca_file: Path, folder: Path, engine: str) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._engine = engine
        self._ca_file = ca_file
        good = Upstream("good.example", ca, neighbours=("evil.example",))
        self.upstreams = {
            "good.example": good,
            "twin.example": Upstream("twin.example", ca),
            "other.example": Upstream("other.example", ca),
            "plain.example": Upstream("plain.example", tls=False),
        }

    def __enter__(self) -> Self:
        for upstream in self.upstreams.values():
            self._stack.enter_context(upstream)
        places = {f"{u.name}:{443 if u.tls else 80}": u.connect_to for u in self.upstreams.values()}
        good = self.upstreams["good.example"].connect_to
        places |= {"evil.example:443": good, "good.example:80": good}
        policy = POLICY | {"upstream": {"ca_file": str(self._ca_file), "connect_to": places}}
        self.proxy = self._stack.enter_context(
            Proxy(
                policy,
                self._folder,
                self._engine,
                environ={"GOOD_KEY": GOOD_SECRET, "TWIN_KEY": TWIN_SECRET},
                names={"guarded.example": [["169.254.169.254"]]},
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            expect_no_secret_written(self.proxy, SECRETS)
