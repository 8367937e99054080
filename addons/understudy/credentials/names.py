"""The names under which credentials travel, whoever they belong to."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from understudy.credentials.carriers import parameters
from understudy.wire.fields import normal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.credentials.carriers import Head
    from understudy.policy.model import Connection

CREDENTIAL_NAMES = (
    "cf-access-client-id",
    # Google's APIs read any header, Authorization included, from this parameter.
    "httpheaders",
    "token",
    "x-amz-signature",
    "x-functions-key",
    "x-goog-signature",
    "x-jfrog-art-api",
    "x-ms-authorization-auxiliary",
    "x-token",
)
"""Headers and query parameters that carry credentials somewhere."""

CREDENTIAL_ENDINGS = (
    "access-key",
    "access-token",
    "api-key",
    "api-token",
    "app-key",
    "app-token",
    "application-key",
    "auth",
    "auth-key",
    "auth-token",
    "authentication",
    "authentication-token",
    "authorization",
    "authorization-token",
    "bearer",
    "bearer-token",
    "credential",
    "deploy-token",
    "github-token",
    "gitlab-token",
    "identity-token",
    "job-token",
    "jwt",
    "oauth-token",
    "passwd",
    "password",
    "private-key",
    "private-token",
    "rapidapi-key",
    "refresh-token",
    "registry-token",
    "secret",
    "secret-key",
    "security-token",
    "service-token",
    "session-token",
    "subscription-key",
    "subscription-token",
    "user-token",
    "vault-token",
)
"""How the names of all others end: a list of whole names would miss the next server's."""

LOOKS_LIKE_A_KEY = re.compile(
    rb"(?:gh[a-z]_|github_pat_|gl[a-z]{2,5}-|npm_|pypi-|sk-|hf_|aiza|xox[a-z]-|akia|ey[a-z0-9]+\.)"
    rb"|[0-9a-f]{32,}\Z|[0-9a-z_.~+/=-]{40,}\Z",
    re.IGNORECASE,
)
"""Text of which a server may think that it is a credential."""

# Browsers can set no other header on a WebSocket, so servers take keys from this one:
# "openai-insecure-api-key.KEY", "base64url.bearer.authorization.k8s.io.TOKEN".
_SUBPROTOCOLS = "sec-websocket-protocol"
_SPEAKS_OF_CREDENTIALS = re.compile(
    rb"key|token|bearer|auth|secret|credential|passw|jwt", re.IGNORECASE
)
_LONGEST_SUBPROTOCOL = 31

_REMEMBERED_BYTES = 64
"""Longer names are read each time: memory is not for clients to fill."""
_COOKIES = frozenset({"cookie", "cookie2"})
_DECODINGS = 2
_PLAIN_PARAMETER = re.compile(rb"[0-9A-Za-z_.-]*+")
_CUT = re.compile(rb"[\[\0]")
_COMPACT_NAMES = frozenset(name.replace("-", "") for name in CREDENTIAL_NAMES)
_COMPACT_ENDINGS = tuple(ending.replace("-", "") for ending in CREDENTIAL_ENDINGS)


def credentials_in(
    head: Head, bound: tuple[Connection, ...]
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """The headers, and the names of the query parameters, that count as credentials here."""
    own_headers = frozenset[str]().union(*[c.own_headers for c in bound])
    headers = []
    for field in head.headers:
        read = _remembered if len(field[0]) <= _REMEMBERED_BYTES else _read_name
        name, is_a_credentials = read(field[0])
        if (
            is_a_credentials
            or name in own_headers
            or (name == _SUBPROTOCOLS and any(map(_hides_credential, field[1].split(b","))))
        ):
            headers.append(field)
    if b"?" not in head.target:
        return headers, []
    own_queries = frozenset[str]().union(*[c.own_queries for c in bound])
    queries = [
        parameter.name
        for parameter in parameters(head.target)
        if any(
            name in own_queries or _is_a_credentials(name)
            for name in _parameter_names(parameter.name, parameter.value)
        )
    ]
    return headers, queries


def cookies_in(head: Head) -> tuple[tuple[bytes, bytes], ...]:
    """The head's cookies: a credential perhaps, though SDKs keep harmless ones too."""
    return tuple([field for field in head.headers if normal_name(field[0]) in _COOKIES])


def _hides_credential(subprotocol: bytes) -> bool:
    """Whether a subprotocol is more than the name of one."""
    name = subprotocol.strip(b" \t")
    return (
        len(name) > _LONGEST_SUBPROTOCOL
        or _SPEAKS_OF_CREDENTIALS.search(name) is not None
        or any(map(LOOKS_LIKE_A_KEY.match, name.split(b".")))
    )


def _is_a_credentials(name: str) -> bool:
    """Whether a normal name is that of a credential, whoever it belongs to."""
    # Some write access_token and some accessToken.
    compact = name.replace("-", "")
    return compact in _COMPACT_NAMES or compact.endswith(_COMPACT_ENDINGS)


def _read_name(name: bytes) -> tuple[str, bool]:
    """A header's normal name, and whether it is a credential's."""
    normal = normal_name(name)
    return normal, _is_a_credentials(normal)


_remembered = lru_cache(maxsize=1024)(_read_name)


def _parameter_names(name: bytes, value: bytes) -> Iterator[str]:
    """The parameter's normal names, as one server or another reads it.

    Decoded once more, split at ``;``, cut at a bracket or NUL.
    """
    if b";" not in value and _PLAIN_PARAMETER.fullmatch(name):
        yield normal_name(name).strip("-")
        return
    for _ in range(_DECODINGS):
        for part in {*(name + b"=" + value).split(b";")}:
            whole = part.partition(b"=")[0]
            yield normal_name(whole).strip("-")
            yield normal_name(_CUT.split(whole, maxsplit=1)[0]).strip("-")
        if b"%" not in name:
            return
        name = unquote_to_bytes(name)
