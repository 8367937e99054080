"""The names under which credentials travel, whoever they belong to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from understudy.credentials.carriers import parameters
from understudy.wire.fields import normal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.credentials.carriers import Head
    from understudy.policy.model import Connection

CREDENTIAL_HEADERS = frozenset(
    {
        "api-key",
        "api-token",
        "apikey",
        "authentication",
        "authorization",
        "cf-access-client-id",
        "cf-access-client-secret",
        "cf-access-token",
        "cf-aig-authorization",
        "dd-api-key",
        "deploy-token",
        "job-token",
        "ocp-apim-subscription-key",
        "private-token",
        "x-access-token",
        "x-amz-security-token",
        "x-api-key",
        "x-api-token",
        "x-apikey",
        "x-auth",
        "x-auth-key",
        "x-auth-token",
        "x-authorization",
        "x-forwarded-access-token",
        "x-forwarded-authorization",
        "x-functions-key",
        "x-github-token",
        "x-gitlab-token",
        "x-goog-api-key",
        "x-goog-iam-authorization-token",
        "x-jfrog-art-api",
        "x-litellm-api-key",
        "x-ms-authorization-auxiliary",
        "x-nuget-apikey",
        "x-original-authorization",
        "x-portkey-api-key",
        "x-rapidapi-key",
        "x-registry-auth",
        "x-serverless-authorization",
        "x-subscription-token",
        "x-vault-token",
    }
)
"""Headers that carry credentials somewhere; on a bound host they count as one."""

CREDENTIAL_QUERIES = frozenset(
    {
        # Google's APIs read any header, Authorization included, from this parameter.
        "$httpheaders",
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "auth_token",
        "bearer_token",
        "client_secret",
        "oauth_token",
        "private_token",
        "subscription-key",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)
"""Query parameters that do, in lower case."""

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

_COOKIES = frozenset({"cookie", "cookie2"})


def credentials_in(
    head: Head, bound: tuple[Connection, ...]
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """The headers, and the names of the query parameters, that count as credentials here."""
    header_names = CREDENTIAL_HEADERS.union(*[c.own_headers for c in bound])
    headers = [
        field
        for field in head.headers
        if (name := normal_name(field[0])) in header_names
        or (name == _SUBPROTOCOLS and any(map(_hides_credential, field[1].split(b","))))
    ]
    if b"?" not in head.target:
        return headers, []
    query_names = CREDENTIAL_QUERIES.union(*[c.own_queries for c in bound])
    queries = [
        parameter.name
        for parameter in parameters(head.target)
        if any(name in query_names for name in _parameter_names(parameter.name, parameter.value))
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


def _parameter_names(name: bytes, value: bytes) -> Iterator[str]:
    """The parameter's name, and those that other servers see: split at ``;``, without ``[]``."""
    for part in (name + b"=" + value).split(b";"):
        pure = part.partition(b"=")[0].partition(b"[")[0]
        yield pure.strip().decode("latin-1").lower()
