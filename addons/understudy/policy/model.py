"""The compiled policy: what the loader makes of the files and what every judgement reads.

Frozen, typed and free of I/O. Hosts are canonical (see :mod:`understudy.policy.hosts`), names are
resolved to objects, defaults are filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from understudy.policy.index import RuleIndex
from understudy.wire.fields import normal_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Network, IPv6Network

    from understudy.credentials.carriers import Carrier
    from understudy.gateways.preset import GatewayPreset
    from understudy.policy.hosts import HostPattern
    from understudy.policy.paths import PathPattern
    from understudy.reasons import Reason

Scheme = Literal["https", "http"]

_REMEMBERED_HOSTS = 1024


class SecretReference(NamedTuple):
    """Where a secret comes from; never the secret itself."""

    source: str
    """Name of the source: ``env`` or ``file``."""
    locator: str
    """What the source looks up: a variable's name or a file's path."""
    max_age_seconds: float = 300.0
    """A cached value older than this is resolved again before it is used."""

    @property
    def label(self) -> str:
        """The name that audit and status show: the variable, or the file's last component."""
        return self.locator.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class Connection:
    """A named (hosts, auth) pair."""

    name: str
    provider: str | None
    hosts: tuple[HostPattern, ...]
    carriers: tuple[Carrier, ...]
    secret: SecretReference | None
    """None for ``auth: {type: none}``: allowed, and no credential goes up."""
    inject_always: bool = False
    allow_foreign_credentials: bool = False
    placeholder: str | None = None
    """The placeholder that the policy fixes; None where one is minted."""
    credential_headers: frozenset[str] = frozenset()
    """Lower-case header names that count as a credential on this connection's hosts."""
    credential_queries: frozenset[str] = frozenset()
    """Query parameter names that count as a credential on this connection's hosts."""
    via_gateway: bool = False
    """True where the policy's gateway stands in for this connection's provider."""
    own_headers: frozenset[str] = field(init=False, repr=False, compare=False)
    """Normal names of all headers that carry a credential of this connection."""
    own_queries: frozenset[str] = field(init=False, repr=False, compare=False)
    """Normal names of all query parameters that do."""

    def __post_init__(self) -> None:
        headers = [name.encode("latin-1") for name in self.credential_headers]
        headers += [carrier.header for carrier in self.carriers if carrier.header is not None]
        queries = [*self.credential_queries]
        queries += [c.name for c in self.carriers if c.kind == "query" and c.name]
        object.__setattr__(self, "own_headers", frozenset(map(normal_name, headers)))
        normal = frozenset(normal_name(name.encode("ascii")).strip("-") for name in queries)
        object.__setattr__(self, "own_queries", normal)

    def covers(self, host: str) -> bool:
        """Whether the canonical ``host`` is one of this connection's own hosts."""
        return any(pattern.matches(host) for pattern in self.hosts)


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of ``allow`` or ``deny``, with every default filled in.

    Every combination of its hosts, ports and schemes is meant. An entry of the file that means
    less becomes several rules of one name: https on 443 and http on 80, or the provider's hosts
    and, where the connection goes through the gateway, the gateway's own address.
    """

    name: str
    connection: Connection | None
    hosts: tuple[HostPattern, ...] | None
    """None: every host (deny rules without ``hosts``)."""
    ports: frozenset[int] | None
    """None: every port (deny rules without ``ports``)."""
    schemes: frozenset[Scheme]
    methods: frozenset[str] | None
    """None: every method that the proxy forwards."""
    paths: tuple[PathPattern, ...] | None
    """None: every path."""
    websocket: bool = False
    """Whether a GET that it allows may become a WebSocket."""
    at_gateway: bool = False
    """True for the twin of a rule that covers requests sent straight to the gateway."""
    denied_by: tuple[Rule, ...] = ()
    """For such a twin: deny rules about the provider's hosts, which hold here as well."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The declared gateway: the one place provider traffic goes instead of the provider."""

    preset: GatewayPreset
    scheme: Scheme
    host: str
    port: int
    path_prefix: str
    """The path of the gateway's URL, without a trailing slash; empty for none."""
    providers: frozenset[str]
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the preset's templates ask for, for example Cloudflare's account and gateway."""
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that the operator sets on every request to the gateway."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """How upstreams are reached."""

    ca_pem: str | None = None
    """PEM text of ``ca_file``: added to the public roots, never replacing them."""
    connect_to: Mapping[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """(host, port) → (address or name, port); TLS name and Host stay. As curl --connect-to."""
    allow_addresses: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets. None: unlimited. Sizes in bytes, times in seconds."""

    max_header_bytes: int = 65536
    max_headers: int = 256
    """Header lines of a request; real clients send a few dozen."""
    max_request_body_bytes: int | None = None
    idle_timeout_seconds: float = 300.0
    head_timeout_seconds: float = 30.0
    """How long a request head may take to arrive, from its first byte."""
    handshake_timeout_seconds: float = 10.0
    """From the answer to CONNECT to the end of the client's TLS handshake."""
    connect_timeout_seconds: float = 10.0
    """For each address of an upstream, its TLS handshake, and the wait for a connection to it."""
    first_byte_timeout_seconds: float = 600.0
    """From the end of the request to the response's head; long, for models that think."""
    max_stream_seconds: float | None = None
    """From a request's head to the last byte of its answer; models may stream for long."""
    max_connections: int = 2048
    """Client connections open at one time."""
    max_connections_per_client: int = 1024
    """As many of them from one IP address; enough for all of a machine's programs at loopback."""
    max_connections_per_upstream: int = 1024
    """Connections to one upstream server; each answer that streams holds one."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy, ready to be asked."""

    mode: Literal["enforce", "report"]
    connections: Mapping[str, Connection]
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    gateway: Gateway | None
    upstream: Upstream
    limits: Limits
    digest: str
    """``sha256:`` and the hex digest of the policy's files and the gateway variable."""
    index: RuleIndex = field(init=False, repr=False, compare=False)
    """The rules by host, for judgements."""
    _bound: dict[tuple[str, int], tuple[Connection, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", RuleIndex(self.allow, self.deny))

    def is_gateway(self, host: str, port: int) -> bool:
        """Whether that is the declared gateway's own address."""
        gateway = self.gateway
        return gateway is not None and (host, port) == (gateway.host, gateway.port)

    def bound_to(self, host: str, port: int) -> tuple[Connection, ...]:
        """Every connection whose credential belongs to the canonical host (and gateway port)."""
        bound = self._bound.get((host, port))
        if bound is None:
            at_gateway = self.is_gateway(host, port)
            bound = tuple(
                connection
                for connection in self.connections.values()
                if connection.covers(host) or (at_gateway and connection.via_gateway)
            )
            if len(self._bound) >= _REMEMBERED_HOSTS:
                self._bound.clear()
            self._bound[host, port] = bound
        return bound


class Target(NamedTuple):
    """What a request asks for, in canonical form."""

    method: str
    scheme: Scheme
    host: str
    port: int
    path: str
    """The path as sent, without the query; it starts with ``/``."""


class Verdict(NamedTuple):
    """The policy's answer about one request or tunnel."""

    allow: bool
    """Whether the request may go on; in report mode also where ``reason`` is a denial."""
    reason: Reason
    rule: str | None = None
    connection: Connection | None = None
    websocket: bool = False
    """Whether the request may become a WebSocket, if that is what it asks for."""
