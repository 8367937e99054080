"""Connections, placeholders and heads that the credential tests share."""

from __future__ import annotations

import base64
from dataclasses import replace

from understudy.credentials.carriers import Carrier, Head
from understudy.credentials.placeholders import Placeholders
from understudy.credentials.secret import Secret
from understudy.policy.hosts import HostPattern
from understudy.policy.model import Connection, SecretReference, Verdict
from understudy.reasons import Reason

BEARER = Carrier("bearer")
BASIC = Carrier("basic", part="password")
API_KEY = Carrier("header", "x-api-key")
QUERY_KEY = Carrier("query", "key")


def connection(name: str, *carriers: Carrier, **changes: object) -> Connection:
    made = Connection(
        name=name,
        provider=None,
        hosts=(HostPattern.parse(f"{name}.example"),),
        carriers=carriers or (API_KEY, BEARER),
        secret=SecretReference("env", f"{name.upper()}_KEY"),
    )
    return replace(made, **changes)  # type: ignore[arg-type] # the caller names real fields


GOOD = connection("good")
TWIN = connection("twin")
"""Bound to the same host as GOOD in the tests that say so."""
OTHER = connection("other")
GIT = connection("git", BEARER, BASIC)
SEARCH = connection("search", API_KEY, QUERY_KEY)

CONNECTIONS = {c.name: c for c in (GOOD, TWIN, OTHER, GIT, SEARCH)}
PLACEHOLDERS = Placeholders(
    {name: f"sk-{name}-0123456789abcdefghijABCDEFGHIJ" for name in CONNECTIONS}
)
P = PLACEHOLDERS["good"]
SECRET = Secret("sk-real-5ecret-5ecret-5ecret", "GOOD_KEY")


def head(*headers: tuple[str, str], target: str = "/v1/messages") -> Head:
    return Head(
        tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers),
        target.encode("latin-1"),
    )


def allowed(decided: Connection | None) -> Verdict:
    return Verdict(allow=True, reason=Reason.ALLOWED, rule="rule", connection=decided)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
