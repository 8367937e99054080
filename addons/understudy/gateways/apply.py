"""Provider requests as the declared gateway wants them, and what a client may not ask of it.

Pure: no I/O, no mitmproxy. Routes are judged on every reading of the path, on the path as the
provider's clients write it; what leads anywhere else at the gateway, its administration
included, is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.credentials.carriers import parameters
from understudy.gateways.scan import FieldScanner
from understudy.policy.paths import PathError, readings
from understudy.reasons import Reason
from understudy.wire.fields import normal_name
from understudy.wire.identity import METHOD_OVERRIDES, METHOD_PARAMETERS, PATH_OVERRIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.credentials.carriers import Carrier
    from understudy.gateways.preset import GatewayPreset, ProviderPath
    from understudy.policy.model import Gateway, Scheme

_OVERRIDES = METHOD_OVERRIDES | PATH_OVERRIDES
_BRACKETS = re.compile(r"[\[\].]")
_FORM = re.compile(rb"form|multipart", re.IGNORECASE)
# Written in others (UTF-7, EBCDIC), a name is another one to ASCII's readers.
_CHARSET = re.compile(rb"charset([0-9*]*+)[ \t]*+=[ \t]*+\"?([^\";, \t]*+)", re.IGNORECASE)
_READABLE_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1"})


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes at the gateway, and what changes on the way."""

    scheme: Scheme
    host: str
    port: int
    target: bytes
    """Path and query at the gateway."""
    headers_to_set: tuple[tuple[str, str], ...]
    """The operator's headers; each replaces the client's of the same name."""
    headers_to_drop: frozenset[bytes]
    """Names of the client's headers that stay behind, as the client wrote them."""
    refuse_body_fields: frozenset[str]
    """Give these and the body to :func:`refuse_body` before anything is sent; empty: stream."""
    body_is_form: bool
    """Whether the gateway may read the body as a form, whatever it looks like."""
    carrier: Carrier | None
    """Where the gateway's credential goes; None: where the client's stood."""


def provider_path(
    gateway: Gateway,
    provider: str,
    host_is_gateway: bool,  # noqa: FBT001 - reads as part of the question at every call
    path: str,
) -> str | None:
    """The path as the provider's clients write it, which is what rules are written for.

    Sent to the provider's host, it is ``path`` itself. Sent straight to the gateway, the prefix
    that the gateway wants is taken off if it is there. None: the gateway has no such provider, or
    the path is none of its model API.
    """
    entry = gateway.preset.providers.get(provider)
    if entry is None:
        return None
    if not host_is_gateway:
        return path
    candidates = [path]
    base = _base_path(gateway)
    if path.startswith(base) and (restored := entry.restore(path.removeprefix(base))) is not None:
        candidates.insert(0, restored)
    return next((found for found in candidates if _is_open(entry, None, found)), None)


def route(
    gateway: Gateway,
    provider: str,
    method: str,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    *,
    host_is_gateway: bool = False,
) -> Routed | Reason:
    """Send an allowed request to the gateway, or say why the gateway is not open for it.

    ``target`` is path and query as sent; ``host_is_gateway`` whether the client named the gateway
    itself. ``gateway_route_denied`` where (method, path) is none of the provider's model API;
    ``gateway_override_denied`` where the client tries to steer the gateway.
    """
    raw_path, question_mark, query = target.partition(b"?")
    entry = gateway.preset.providers.get(provider)
    path = _plain(raw_path)
    if entry is None or path is None:
        return Reason.GATEWAY_ROUTE_DENIED
    shaped = provider_path(gateway, provider, host_is_gateway, path)
    if shaped is None or not _is_open(entry, method, shaped):
        return Reason.GATEWAY_ROUTE_DENIED
    rewritten = entry.rewrite(shaped)
    if rewritten is None:
        return Reason.GATEWAY_ROUTE_DENIED
    dropped = _control_headers(gateway.preset, headers)
    if dropped is None or _steers(gateway.preset, target):
        return Reason.GATEWAY_OVERRIDE_DENIED
    return Routed(
        scheme=gateway.scheme,
        host=gateway.host,
        port=gateway.port,
        target=(_base_path(gateway) + rewritten).encode("ascii") + question_mark + query,
        headers_to_set=_headers_to_set(gateway, entry),
        headers_to_drop=dropped,
        refuse_body_fields=gateway.preset.refuse_fields,
        body_is_form=_is_form(headers),
        carrier=gateway.preset.carrier,
    )


def refuse_body(fields: frozenset[str], body: bytes, *, is_form: bool = False) -> bool:
    """Whether a whole request body holds one of ``fields`` where a gateway would read it.

    Looked at: the names of a JSON object and one level below, duplicates included, in any letters
    and any encoding that JSON allows; in other bodies, and in all that ``is_form``, the names as
    whole words anywhere. A body that begins as JSON and cannot be read is refused: a more
    forgiving parser may read it.
    """
    if not fields or not body.strip():
        return False
    if is_form:
        return FieldScanner(fields, is_form=True).feed(body)
    try:
        document = json.loads(body, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        begins_as_json = body.lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n\x00")[:1] in (b"{", b"[")
        return begins_as_json or FieldScanner(fields, is_form=True).feed(body)
    if isinstance(document, _Pairs):
        return _holds(fields, document)
    if isinstance(document, list):
        return any(isinstance(entry, _Pairs) and _names(fields, entry) for entry in document)
    return False


class _Pairs(list[tuple[str, object]]):
    """A JSON object with every name that was written, duplicates too."""


def _holds(fields: frozenset[str], document: _Pairs) -> bool:
    if _names(fields, document):
        return True
    for _, value in document:
        if isinstance(value, str) and value.lstrip()[:1] == "{":
            # LiteLLM also reads metadata that is JSON inside a string.
            try:
                value = json.loads(value, object_pairs_hook=_Pairs)  # noqa: PLW2901 - the same value, decoded
            except (ValueError, RecursionError):
                continue
        if isinstance(value, _Pairs) and _names(fields, value):
            return True
    return False


def _names(fields: frozenset[str], document: _Pairs) -> bool:
    # Gateways in Go read a name in any letters.
    return any(name.casefold() in fields for name, _ in document)


def _plain(raw_path: bytes) -> str | None:
    try:
        path = raw_path.decode("ascii")
        readings(path)
    except (UnicodeDecodeError, PathError):
        return None
    return path


def _is_open(entry: ProviderPath, method: str | None, path: str) -> bool:
    """Whether one route covers every reading of ``path``; any method where ``method`` is None."""
    try:
        every_reading = readings(path)
    except PathError:
        return False
    return any(
        all(open_route.path.matches(reading) for reading in every_reading)
        for open_route in entry.routes
        if method in (None, open_route.method)
    )


def _base_path(gateway: Gateway) -> str:
    if gateway.path_prefix:
        return gateway.path_prefix
    return gateway.preset.base_path.format_map(gateway.settings)


def _control_headers(
    preset: GatewayPreset, headers: Sequence[tuple[bytes, bytes]]
) -> frozenset[bytes] | None:
    """The client's headers to leave behind; None where one of them steers the gateway."""
    dropped = set()
    own = preset.carrier.header if preset.carrier else None
    for raw_name, value in headers:
        name = normal_name(raw_name)
        if name in _OVERRIDES or (preset.refuse_fields and _hides_body(name, value)):
            return None
        if not name.startswith(preset.control_prefixes) or raw_name.lower() == own:
            continue
        if name not in preset.harmless_headers:
            return None
        dropped.add(raw_name)
    return frozenset(dropped)


def _hides_body(name: str, value: bytes) -> bool:
    """Whether a header tells of a coding that hides the body's fields from a look at it."""
    if name == "content-encoding":
        return value.strip() != b"identity"
    return name == "content-type" and any(
        extended or charset.lower() not in _READABLE_CHARSETS
        for extended, charset in _CHARSET.findall(value)
    )


def _is_form(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(
        _FORM.search(value) for name, value in headers if normal_name(name) == "content-type"
    )


def _steers(preset: GatewayPreset, target: bytes) -> bool:
    for parameter in parameters(target):
        if parameter.name.lower() in METHOD_PARAMETERS:
            return True
        for part in (parameter.name + b"=" + parameter.value).split(b";"):
            name = part.partition(b"=")[0].strip()
            words = _BRACKETS.split(name.decode("latin-1").lower())
            steers = normal_name(name).startswith(preset.control_prefixes)
            if steers or not preset.refuse_fields.isdisjoint(words):
                return True
    return False


def _headers_to_set(gateway: Gateway, entry: ProviderPath) -> tuple[tuple[str, str], ...]:
    prefixes = gateway.preset.control_prefixes
    if any(name.lower().startswith(prefixes) for name, _ in gateway.headers):
        return gateway.headers
    return (*entry.headers, *gateway.headers)
