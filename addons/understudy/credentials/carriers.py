"""Where in a request's head a credential travels, and how it is read and written there.

Pure: no I/O, no mitmproxy. Header values are bytes and stay bytes, because a client may send any.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["bearer", "basic", "header", "query"]
Part = Literal["password", "username"]

DEFAULT_BASIC_USERNAME = "x-access-token"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_QUERY_NAME = re.compile(r"[0-9A-Za-z._~\-\[\]$]+")
_USERNAME = re.compile(r"[\x21-\x39\x3b-\x7e]+")
# Possessive, so that a long run of spaces is gone through once and not from each of its places.
_BEARER = re.compile(
    rb"[ \t]*+(?:bearer|token)[ \t]++((?:[^ \t]++|[ \t]++(?=[^ \t]))*+)[ \t]*+", re.IGNORECASE
)
_BASIC = re.compile(rb"[ \t]*basic[ \t]+([0-9A-Za-z+/]+={0,2})[ \t]*", re.IGNORECASE)
# Framing, routing and per-hop headers: a credential there would be dropped or change the request.
_NEVER_A_CARRIER = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class Head(NamedTuple):
    """The part of a request that carriers live in."""

    headers: tuple[tuple[bytes, bytes], ...]
    """(name, value) as sent, in order."""
    target: bytes
    """Path and query exactly as sent."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """One way in which a credential travels."""

    kind: Kind
    name: str | None = None
    """The header (lower case) or the query parameter; None for ``Authorization``."""
    part: Part | None = None
    """Which half of ``user:password`` is the credential, for ``basic``."""
    username: str | None = None
    """The other half where the proxy writes the credential itself, for ``basic: password``."""

    @classmethod
    def parse(cls, mapping: Mapping[str, object]) -> Carrier:
        """Read ``{bearer: true}``, ``{basic: password}``, ``{header: NAME}`` or ``{query: NAME}``.

        ``{bearer: NAME}`` is a bearer token in another header than ``Authorization``. Raises
        ValueError with a sentence that says what was found and what was expected.
        """
        kinds = [kind for kind in ("bearer", "basic", "header", "query") if kind in mapping]
        unknown = sorted(str(key) for key in mapping if key not in (*kinds, "username"))
        if len(kinds) != 1 or unknown:
            found = ", ".join(sorted(str(key) for key in mapping)) or "nothing"
            raise ValueError(
                f"a carrier has exactly one of bearer, basic, header and query; found {found}"
            )
        (kind,) = kinds
        value = mapping[kind]
        username = mapping.get("username")
        if username is not None and (kind, value) != ("basic", "password"):
            raise ValueError("username stands only beside basic: password")
        if kind == "bearer":
            return cls("bearer", None if value is True else _header_name(kind, value))
        if kind == "basic":
            return _parse_basic(value, username)
        if kind == "header":
            return cls("header", _header_name(kind, value))
        if not isinstance(value, str) or not _QUERY_NAME.fullmatch(value):
            raise ValueError(f"query: expected the name of a query parameter, found {value!r}")
        return cls("query", value)

    @property
    def header(self) -> bytes | None:
        """The lower-case name of the header that it travels in; None for a query parameter."""
        if self.kind == "query":
            return None
        return (self.name or "authorization").encode("ascii")

    @property
    def label(self) -> str:
        """The location as audit and metrics name it, for example ``header:x-api-key``."""
        if self.kind == "basic":
            return f"basic:{self.part}"
        if self.kind == "query":
            return f"query:{self.name}".lower()
        return f"header:{self.name or 'authorization'}"


class Slot(NamedTuple):
    """One credential that stands in a carrier."""

    field: int | None
    """Index of the header; None: the target."""
    start: int
    end: int
    """The span that holds it, within the header's value or the target."""
    value: bytes
    """The credential, decoded."""
    other: bytes = b""
    """The other half of ``user:password``."""


class Parameter(NamedTuple):
    """One ``name=value`` of a query, with its span in the target."""

    name: bytes
    """Decoded."""
    value: bytes
    """Decoded."""
    start: int
    value_start: int
    end: int


def find_slots(carrier: Carrier, head: Head) -> list[Slot]:
    """Every credential that stands in ``carrier``, well-formed; malformed ones are not found."""
    if carrier.kind == "query":
        wanted = (carrier.name or "").encode("ascii")
        return [
            Slot(None, parameter.value_start, parameter.end, parameter.value)
            for parameter in parameters(head.target)
            if parameter.name == wanted
        ]
    found = []
    header = carrier.header
    for index, (name, value) in enumerate(head.headers):
        if name.lower() == header and (slot := _read_header(carrier, index, value)):
            found.append(slot)
    return found


def write_slot(head: Head, carrier: Carrier, slot: Slot, credential: bytes) -> Head:
    """Put ``credential`` where ``slot`` is; every other byte stays."""
    if carrier.kind == "query":
        credential = quote_from_bytes(credential, safe="").encode("ascii")
    elif carrier.kind == "basic":
        pair = (slot.other, credential) if carrier.part == "password" else (credential, slot.other)
        credential = base64.b64encode(b":".join(pair))
    if slot.field is None:
        target = head.target[: slot.start] + credential + head.target[slot.end :]
        return Head(head.headers, target)
    headers = list(head.headers)
    name, value = headers[slot.field]
    headers[slot.field] = (name, value[: slot.start] + credential + value[slot.end :])
    return Head(tuple(headers), head.target)


def remove_slot(head: Head, slot: Slot) -> Head:
    """Take the whole header or query parameter of ``slot`` out."""
    if slot.field is not None:
        return Head(head.headers[: slot.field] + head.headers[slot.field + 1 :], head.target)
    kept = [p for p in parameters(head.target) if p.value_start != slot.start]
    return Head(head.headers, join_parameters(head.target, kept))


def add_credential(head: Head, carrier: Carrier, credential: bytes) -> Head:
    """Put ``credential`` into ``carrier``, which must be empty."""
    if carrier.kind == "query":
        separator = b"&" if b"?" in head.target else b"?"
        pair = f"{carrier.name}={quote_from_bytes(credential, safe='')}".encode("ascii")
        return Head(head.headers, head.target + separator + pair)
    if carrier.kind == "bearer":
        credential = b"Bearer " + credential
    elif carrier.kind == "basic":
        username = (carrier.username or DEFAULT_BASIC_USERNAME).encode("ascii")
        pair = username + b":" + credential if carrier.part == "password" else credential + b":"
        credential = b"Basic " + base64.b64encode(pair)
    assert carrier.header is not None
    return Head((*head.headers, (carrier.header, credential)), head.target)


def parameters(target: bytes) -> Iterator[Parameter]:
    """The query's parameters, names and values percent-decoded, ``+`` read as a space."""
    start = target.find(b"?") + 1
    if not start:
        return
    for pair in target[start:].split(b"&"):
        if not pair:
            start += 1
            continue
        name, _, value = pair.partition(b"=")
        end = start + len(pair)
        yield Parameter(
            unquote_to_bytes(name.replace(b"+", b" ")),
            unquote_to_bytes(value.replace(b"+", b" ")),
            start,
            min(start + len(name) + 1, end),
            end,
        )
        start = end + 1


def join_parameters(target: bytes, kept: list[Parameter]) -> bytes:
    """``target`` with only the ``kept`` parameters, their bytes as they were."""
    path = target.partition(b"?")[0]
    if not kept:
        return path
    return path + b"?" + b"&".join(target[p.start : p.end] for p in kept)


def decode_basic(token: bytes) -> bytes | None:
    """The bytes behind Basic's base64, or None unless it is the one canonical encoding."""
    try:
        decoded = base64.b64decode(token, validate=True)
    except binascii.Error:
        return None
    return decoded if base64.b64encode(decoded) == token else None


def _read_header(carrier: Carrier, index: int, value: bytes) -> Slot | None:
    if carrier.kind == "header":
        # White space around a field value is not part of it (RFC 9110 5.5).
        stripped = value.strip(b" \t")
        start = value.find(stripped)
        return Slot(index, start, start + len(stripped), stripped)
    if carrier.kind == "bearer":
        bearer = _BEARER.fullmatch(value)
        return Slot(index, *bearer.span(1), bearer[1]) if bearer else None
    basic = _BASIC.fullmatch(value)
    decoded = decode_basic(basic[1]) if basic else None
    if basic is None or decoded is None or b":" not in decoded:
        return None
    username, _, password = decoded.partition(b":")
    credential, other = (password, username) if carrier.part == "password" else (username, password)
    return Slot(index, *basic.span(1), credential, other)


def _header_name(kind: str, value: object) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ValueError(f"{kind}: expected the name of a header, found {value!r}")
    if value.lower() in _NEVER_A_CARRIER:
        raise ValueError(f"{kind}: the header {value} cannot carry a credential")
    return value.lower()


def _parse_basic(part: object, username: object) -> Carrier:
    if username is not None and not (isinstance(username, str) and _USERNAME.fullmatch(username)):
        raise ValueError("username: expected printable ASCII without spaces and colons")
    if part == "password":
        return Carrier("basic", part="password", username=username)
    if part == "username":
        return Carrier("basic", part="username")
    raise ValueError(f"basic: expected password or username, found {part!r}")
