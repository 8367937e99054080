"""Whom a request is for: CONNECT host, Host header and target must name one and the same place."""

from __future__ import annotations

import base64
import binascii
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING

from understudy.credentials.carriers import parameters
from understudy.policy.hosts import Authority, HostError, parse_authority
from understudy.policy.model import Target
from understudy.reasons import Reason
from understudy.wire.fields import normal_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.wire.head import RequestHead

_HTTPS_PORT = 443
_HTTP_PORT = 80
_REMEMBERED_HOST_BYTES = 256

METHOD_OVERRIDES = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
"""Headers, and query parameters, from which frameworks take another method."""
# Rails and Symfony read the first, Google's APIs the second.
METHOD_PARAMETERS = frozenset({b"_method", b"$httpmethod"} | {n.encode() for n in METHOD_OVERRIDES})
# IIS, Symfony and Zend route by the original and rewritten URL, and never look at the request line
# then; servers behind Envoy and Traefik by the others.
PATH_OVERRIDES = frozenset(
    {
        "x-envoy-original-path",
        "x-forwarded-path",
        "x-forwarded-uri",
        "x-original-path",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-uri",
        "x-rewrite-url",
    }
)

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
    }
)
"""Headers for this hop only (RFC 9110 7.6.1); they never go upstream."""


def identify(head: RequestHead, tunnel: Authority | None, *, tls: bool) -> Target | Reason:
    """The canonical target of a request, or why it has none.

    ``tunnel`` is where the CONNECT leads, None for a request straight to the proxy's port;
    ``tls`` whether the request came inside TLS.
    """
    if head.refusal is not None:
        return head.refusal
    here = _inside_tunnel(head, tunnel, tls=tls) if tunnel else _straight_to_proxy(head)
    if isinstance(here, Reason):
        return here
    path = head.path.partition(b"?")[0].decode("ascii")
    return Target(head.method, "https" if tls else "http", here.host, here.port, path)


def _inside_tunnel(head: RequestHead, tunnel: Authority, *, tls: bool) -> Authority | Reason:
    if head.method == "CONNECT":
        return Reason.BAD_METHOD
    if head.form != "origin":
        return Reason.BAD_TARGET
    # Cleartext in a tunnel to 443 is answered as missing TLS, not as a wrong port.
    default = tunnel.port if tunnel.port in ({_HTTPS_PORT} if tls else {80, 443}) else None
    try:
        host = _host_of(head.host, default or (_HTTPS_PORT if tls else _HTTP_PORT))
    except HostError:
        return Reason.BAD_HEADER
    return tunnel if host == tunnel else Reason.HOST_MISMATCH


def _host_of(raw: bytes, default_port: int) -> Authority:
    read = _remembered_host if len(raw) <= _REMEMBERED_HOST_BYTES else parse_authority
    return read(raw, default_port)


_remembered_host = lru_cache(maxsize=1024)(parse_authority)


def _straight_to_proxy(head: RequestHead) -> Authority | Reason:
    if head.form != "absolute" or not head.target.lower().startswith(b"http://"):
        return Reason.BAD_TARGET
    try:
        wanted = parse_authority(head.authority, _HTTP_PORT)
    except HostError:
        return Reason.BAD_TARGET
    try:
        host = parse_authority(head.host, _HTTP_PORT)
    except HostError:
        return Reason.BAD_HEADER
    return wanted if host == wanted else Reason.BAD_HEADER


def overrides_method(headers: Iterable[tuple[bytes, bytes]], target: bytes, method: str) -> bool:
    """Whether a header or query parameter asks for another method than the request line's.

    Frameworks that obey it would answer for a request that no rule has judged.
    """
    wanted = method.encode("ascii")
    return any(
        value != wanted for name, value in headers if normal_name(name) in METHOD_OVERRIDES
    ) or any(
        parameter.value.upper() != wanted
        for parameter in parameters(target)
        if parameter.name.lower() in METHOD_PARAMETERS
    )


def overrides_path(headers: Iterable[tuple[bytes, bytes]], path: bytes) -> bool:
    """Whether a header asks for another path than the request line's; as overrides_method."""
    return any(normal_name(name) in PATH_OVERRIDES and value != path for name, value in headers)


def format_host(scheme: str, host: str, port: int) -> str:
    """The Host header of a canonical destination: IPv6 in brackets, no default port."""
    name = f"[{host}]" if ":" in host else host
    default = _HTTPS_PORT if scheme == "https" else _HTTP_PORT
    return name if port == default else f"{name}:{port}"


def caller_is_known(headers: Iterable[tuple[bytes, bytes]], token: str | None) -> bool:
    """Whether Proxy-Authorization carries ``token``: as Bearer, or as Basic's password.

    True for everyone where no token is configured.
    """
    if token is None:
        return True
    values = [value for name, value in headers if name.lower() == b"proxy-authorization"]
    if len(values) != 1:
        return False
    scheme, _, credential = values[0].partition(b" ")
    if scheme.lower() == b"basic":
        try:
            credential = base64.b64decode(credential, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(credential, token.encode())
