"""What the stages remember: one Exchange a request, one Session a client connection.

An Exchange lives in ``flow.metadata``; a Session lives as long as its client connection. Nothing
else carries state from hook to hook, so a stage object can serve every request.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from understudy.audit.request_id import new_request_id

if TYPE_CHECKING:
    from mitmproxy import http
    from mitmproxy.connection import Client

    from understudy.credentials.judge import Plan, Presented
    from understudy.credentials.scrub import Scrubber
    from understudy.engine.dialer import DialPlan
    from understudy.gateways.apply import Routed
    from understudy.gateways.scan import FieldScanner
    from understudy.policy.hosts import Authority
    from understudy.policy.model import Connection, Policy, Target, Verdict
    from understudy.reasons import Reason
    from understudy.wire.fields import Fields
    from understudy.wire.head import RequestHead
    from understudy.wire.outline import Outline
    from understudy.wire.websocket import WebSocket

_KEY = "understudy"


@dataclass(slots=True)
class Session:
    """One client connection, from accept to close."""

    address: str
    """The client's IP address."""
    tunnel: Authority | None = None
    """Where the accepted CONNECT leads; None before it, and for plain HTTP proxying."""
    tls_started: bool = False
    hellos: int = 0
    requests: int = 0
    """Requests and refusals that the audit has seen on this connection, or in its tunnel."""
    refusal: Reason | None = None
    """Why the whole connection is refused; set once, audited once."""
    is_timed_out: bool = False
    """The proxy closes it, its time is over: what breaks off then is not the client's doing."""
    head: RequestHead | None = None
    """The request head that the engine read last, as the client wrote it."""
    exchange: Exchange | None = None
    """The request in progress; HTTP/1.1 has one at a time."""
    whole_request: bool = False
    """The engine holds the request's whole body already, so its head can wait for it."""
    whole_response: bool = False
    """The engine holds the response's whole body already."""


@dataclass(slots=True)
class Exchange:
    """One request and its answer, front to back."""

    session: Session
    policy: Policy | None
    """The policy in force when the request arrived; a reload does not change it half-way."""
    head: RequestHead
    request_id: str = field(default_factory=new_request_id)
    started: float = field(default_factory=time.perf_counter)
    target: Target | None = None
    """What the client asked for, canonical; None until identity has accepted it."""
    presented: Presented | None = None
    bound: tuple[Connection, ...] = ()
    verdict: Verdict | None = None
    routed: Routed | None = None
    """Where the gateway takes the request; None where it goes to its own host."""
    plan: Plan | None = None
    dial_plan: DialPlan | None = None
    """Where the decided request may be dialled."""
    outline: Outline | None = None
    """Fields and target as they will go up, so far; None until identity has accepted them."""
    fields: Fields = ()
    """The outline's, with the request's own length, once all is rewritten."""
    swapped: tuple[tuple[str, str], ...] = ()
    """(secret label, location) of every credential written into the request."""
    refusal: Reason | None = None
    detail: str | None = None
    """What exactly was wrong, from our own finite sentences; for the audit only."""
    websocket: WebSocket | None = None
    """What the request becomes if the upstream accepts it; None where it stays a request."""
    inspects_body: bool = False
    """The decision waits for the body: a gateway's refused fields are looked for first."""
    scanner: FieldScanner | None = None
    """Looks for a gateway's refused fields in a body too large to keep, as it streams."""
    scrubber: Scrubber | None = None
    """Takes the secrets that may come back out of the response; None on a host without any."""
    decided: bool = False
    """The verdict is recorded."""
    forwarded: bool = False
    """The recorded verdict let the request go on, so its end is recorded too."""
    finished: bool = False
    is_sent: bool = False
    """All of the request has come from the client; what is waited for is the upstream's answer."""
    is_connecting: bool = False
    """Nothing goes up before there is a connection to the upstream, which has a time of its own."""
    decided_at: float = 0.0
    first_byte_at: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0

    def refuse(self, reason: Reason, detail: str | None = None) -> None:
        """Refuse the request; the first refusal stands."""
        if self.refusal is None:
            self.refusal = reason
            self.detail = detail

    @property
    def waits_for_upstream(self) -> bool:
        """Whether nothing can move before the upstream answers, whose time has its own limit."""
        is_waiting = self.is_sent or self.is_connecting
        return is_waiting and not self.first_byte_at and not self.finished

    @property
    def concerned_connection(self) -> str | None:
        """The connection that a refused credential is about: shown, or else bound to the host."""
        names = {connection.name for connection in self.bound}
        if self.presented is not None:
            shown = {sighting.connection for sighting in self.presented.sightings}
            names = (shown | self.presented.strays) or names
        return next(iter(names)) if len(names) == 1 else None

    @property
    def destination(self) -> tuple[str, str, int] | None:
        """(scheme, host, port) that the request may be sent to, gateway included."""
        if self.routed is not None:
            return self.routed.scheme, self.routed.host, self.routed.port
        if self.target is not None:
            return self.target.scheme, self.target.host, self.target.port
        return None


def attach(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Keep ``exchange`` with its flow and as its session's request in progress."""
    flow.metadata[_KEY] = exchange
    exchange.session.exchange = exchange


def exchange_of(flow: http.HTTPFlow) -> Exchange:
    """The flow's Exchange; KeyError before the identity stage has run."""
    exchange: Exchange = flow.metadata[_KEY]
    return exchange


def find_exchange(flow: http.HTTPFlow) -> Exchange | None:
    """The flow's Exchange, or None where no stage has seen the flow."""
    exchange: Exchange | None = flow.metadata.get(_KEY)
    return exchange


class Census(Protocol):
    """Counts the client connections of every process that serves one port."""

    def come(self, address: str) -> None:
        """A connection from this IP address is open here."""

    def go(self, address: str) -> None:
        """One of them is closed."""

    def total(self) -> int:
        """How many there are in all."""

    def total_from(self, address: str) -> int:
        """How many of them come from an IP address."""


class Sessions:
    """The live client connections, by mitmproxy's connection id."""

    def __init__(self, census: Census | None = None) -> None:
        self._by_id: dict[str, Session] = {}
        self._census = census
        self._by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def everywhere(self) -> int:
        """How many connections there are in all processes that serve this port."""
        return len(self._by_id) if self._census is None else self._census.total()

    def start(self, client: Client) -> Session:
        """Begin the session of a connection that was just accepted."""
        session = Session(address=client.peername[0])
        self._by_id[client.id] = session
        self._by_address[session.address] += 1
        if self._census is not None:
            self._census.come(session.address)
        return session

    def count_from(self, address: str) -> int:
        """How many of them a client's IP address has."""
        if self._census is not None:
            return self._census.total_from(address)
        return self._by_address[address]

    def of(self, client: Client) -> Session:
        """The session of a live connection; KeyError for one that never started or ended."""
        return self._by_id[client.id]

    def find(self, client: Client) -> Session | None:
        """The session of a connection, or None."""
        return self._by_id.get(client.id)

    def end(self, client: Client) -> Session | None:
        """Forget a connection that is closed."""
        session = self._by_id.pop(client.id, None)
        if session is not None:
            self._by_address[session.address] -= 1
            if not self._by_address[session.address]:
                del self._by_address[session.address]
            if self._census is not None:
                self._census.go(session.address)
        return session
