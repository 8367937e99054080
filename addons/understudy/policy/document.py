"""The policy file's schema: what may be written, field by field, before names are resolved."""

from __future__ import annotations

import re
from collections.abc import Callable  # noqa: TC003 - pydantic reads the annotations
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from understudy.credentials.carriers import Carrier
from understudy.policy.addresses import parse_network
from understudy.policy.decide import NEVER_METHODS
from understudy.policy.hosts import HostPattern, parse_authority
from understudy.policy.paths import PathPattern

MINIMUM_PLACEHOLDER_LENGTH = 24

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
# Unreserved in URLs (RFC 3986 2.3): the same text in a header, a URL and JSON.
_PLACEHOLDER = re.compile(r"[A-Za-z0-9._~-]+")
# Framing, and credentials, which no policy file holds.
_NOT_OPERATOR_HEADERS = frozenset(
    {"authorization", "connection", "content-length", "cookie", "host", "transfer-encoding"}
)


def _given(value: object) -> object:
    """Refuse a field that is written without a value: it must not mean its default, "all"."""
    if value is None:
        raise PydanticCustomError("not_given", "the field is empty")
    return value


def _of_text[T](parse: Callable[[str], T]) -> PlainValidator:
    def validate(value: object) -> T:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "expected text")
        return parse(value)

    return PlainValidator(validate)


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not a name: expected at most 64 letters, digits, dots, hyphens and "
            "underscores"
        )
    return text


def _check_method(text: str) -> str:
    if text.upper() in NEVER_METHODS:
        raise ValueError(f"{text.upper()} is never forwarded; no rule can name it")
    if not _METHOD.fullmatch(text):
        hint = f" Did you mean {text.upper()!r}?" if _METHOD.fullmatch(text.upper()) else ""
        raise ValueError(f"{text[:80]!r} is not a method: expected upper-case letters.{hint}")
    return text


def _check_variable(text: str) -> str:
    # What was found is not shown: here people paste the secret itself.
    if not _VARIABLE.fullmatch(text):
        raise ValueError("expected the name of an environment variable, not its value")
    return text


def _check_file(text: str) -> str:
    if not text or "\x00" in text or "\n" in text:
        raise ValueError("expected the path of a file")
    return text


def _check_placeholder(text: str) -> str:
    if len(text) < MINIMUM_PLACEHOLDER_LENGTH:
        raise ValueError(
            f"a placeholder has at least {MINIMUM_PLACEHOLDER_LENGTH} characters, so that nothing "
            f"else is taken for it; this one has {len(text)}"
        )
    if not _PLACEHOLDER.fullmatch(text):
        raise ValueError(
            "a placeholder is made of letters, digits and . _ ~ - so that it reads the same in a "
            "header, a URL and JSON"
        )
    return text


def _check_header_name(text: str) -> str:
    if not _TOKEN.fullmatch(text) or text.lower() in _NOT_OPERATOR_HEADERS:
        raise ValueError(f"{text[:80]!r} is not a header that can be set here")
    return text


def _check_header_value(text: str) -> str:
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueError("expected printable ASCII without white space around it")
    return text


def _parse_carrier(value: object) -> Carrier:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "expected a mapping")
    return Carrier.parse(value)


def _parse_place(text: str) -> tuple[str, int]:
    try:
        place = parse_authority(text.encode(), None)
    except ValueError as error:
        raise ValueError(f"{text[:300]!r} is not host:port: {error}") from None
    return place.host, place.port


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return parse_network(text)
    except ValueError as error:
        try:
            hint = f" Did you mean {str(ip_network(text, strict=False))!r}?"
        except ValueError:
            hint = ""
        raise ValueError(f"{error}: expected an address or a CIDR block.{hint}") from None


def _refuse_boolean(value: object) -> object:
    # True equals 1 for Literal.
    return str(value) if isinstance(value, bool) else value


SECRET_SOURCES = ("env", "file")
"""Every source that ``secret`` may name; each is a field of :class:`SecretDocument`."""


type _Given[T] = Annotated[T | None, BeforeValidator(_given)]
type _List[T] = Annotated[list[T], Field(min_length=1)]
type _Name = Annotated[str, AfterValidator(_check_name)]
type _Port = Annotated[int, Field(ge=1, le=65535)]
type _Variable = Annotated[str, AfterValidator(_check_variable)]
type _File = Annotated[str, AfterValidator(_check_file)]
type _Method = Annotated[str, AfterValidator(_check_method)]
type _Placeholder = Annotated[str, AfterValidator(_check_placeholder)]
type _Host = Annotated[HostPattern, _of_text(HostPattern.parse)]
type _Path = Annotated[PathPattern, _of_text(PathPattern.parse)]
type _Carrier = Annotated[Carrier, PlainValidator(_parse_carrier)]
type _Place = Annotated[tuple[str, int], _of_text(_parse_place)]
type _Network = Annotated[IPv4Network | IPv6Network, _of_text(_parse_network)]
type _HeaderName = Annotated[str, AfterValidator(_check_header_name)]
type _HeaderValue = Annotated[str, AfterValidator(_check_header_value)]
type _Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
type _Scheme = Literal["https", "http"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SecretDocument(_Document):
    """Where a secret comes from: exactly one source."""

    env: _Given[_Variable] = None
    file: _Given[_File] = None
    max_age_seconds: _Given[_Seconds] = None


class AuthDocument(_Document):
    """How a connection authenticates, where it does not with a secret."""

    type: Literal["none"]


class ConnectionDocument(_Document):
    """A named (provider or hosts, auth) pair."""

    provider: _Given[str] = None
    hosts: _Given[_List[_Host]] = None
    carriers: _Given[_List[_Carrier]] = None
    secret: _Given[SecretDocument] = None
    auth: _Given[AuthDocument] = None
    inject: _Given[Literal["always"]] = None
    allow_foreign_credentials: bool = False
    placeholder: _Given[_Placeholder] = None


class DenyDocument(_Document):
    """A deny rule: what is left out holds for everything."""

    name: _Name
    hosts: _Given[_List[_Host]] = None
    ports: _Given[_List[_Port]] = None
    schemes: _Given[_List[_Scheme]] = None
    methods: _Given[_List[_Method]] = None
    paths: _Given[_List[_Path]] = None


class AllowDocument(DenyDocument):
    """An allow rule, for a connection or for hosts."""

    connection: _Given[str] = None
    allow_plaintext: bool = False
    websocket: bool = False


class GatewayDocument(_Document):
    """The gateway that provider traffic goes to."""

    url: str
    kind: str = "generic"
    providers: _Given[_List[str]] = None
    allow_plaintext: bool = False
    settings: dict[str, str] = {}
    headers: dict[_HeaderName, _HeaderValue] = {}


class UpstreamDocument(_Document):
    """How upstreams are reached."""

    ca_file: _Given[_File] = None
    connect_to: dict[_Place, _Place] = {}
    allow_addresses: _Given[_List[_Network]] = None


class LimitsDocument(_Document):
    """Budgets; what is left out has its default."""

    max_header_bytes: _Given[Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)]] = None
    max_headers: _Given[Annotated[int, Field(ge=1, le=65536)]] = None
    max_request_body_bytes: Annotated[int, Field(ge=0)] | None = None
    idle_timeout_seconds: _Given[_Seconds] = None
    head_timeout_seconds: _Given[_Seconds] = None
    handshake_timeout_seconds: _Given[_Seconds] = None
    connect_timeout_seconds: _Given[_Seconds] = None
    first_byte_timeout_seconds: _Given[_Seconds] = None
    max_stream_seconds: _Seconds | None = None
    max_connections: _Given[Annotated[int, Field(ge=1, le=1_000_000)]] = None
    max_connections_per_client: _Given[Annotated[int, Field(ge=1, le=1_000_000)]] = None
    max_connections_per_upstream: _Given[Annotated[int, Field(ge=1, le=1_000_000)]] = None


class PolicyDocument(_Document):
    """One policy file."""

    version: Annotated[Literal[1], BeforeValidator(_refuse_boolean)]
    mode: _Given[Literal["enforce", "report"]] = None
    gateway: _Given[GatewayDocument] = None
    connections: dict[_Name, ConnectionDocument] = {}
    allow: _Given[_List[AllowDocument]] = None
    deny: _Given[_List[DenyDocument]] = None
    upstream: _Given[UpstreamDocument] = None
    limits: _Given[LimitsDocument] = None


SCHEMA: dict[tuple[str | int, ...], type[BaseModel]] = {
    (): PolicyDocument,
    ("gateway",): GatewayDocument,
    ("connections", "*"): ConnectionDocument,
    ("connections", "*", "secret"): SecretDocument,
    ("connections", "*", "auth"): AuthDocument,
    ("allow", "*"): AllowDocument,
    ("deny", "*"): DenyDocument,
    ("upstream",): UpstreamDocument,
    ("limits",): LimitsDocument,
}
"""Every mapping with fixed fields, by its place in the file; ``*`` is a name or a position."""
