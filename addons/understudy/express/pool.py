"""Upstream connections, kept and shared across clients, so many to a server and no more.

A connection is used again only for the same destination, TLS name, trust and credential
(connection of the policy): what one agent's secret opened never carries another's.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mitmproxy.connection import ConnectionState, Server

from understudy.express.contexts import upstream_context
from understudy.express.places import Place, Slot, await_turn
from understudy.express.stream import Stream
from understudy.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.engine.dialer import DialPlan
    from understudy.express.outbox import Outbox
    from understudy.policy.model import Policy

IDLE_SECONDS = 30.0
LIFETIME_SECONDS = 600.0
_CLOSING_SECONDS = 2.0
MAX_IDLE_PER_DESTINATION = 64
MAX_IDLE = 1024
"""To all destinations together: below a wildcard an agent can name any number of hosts."""


class Destination(NamedTuple):
    """What a connection may be shared by."""

    scheme: str
    host: str
    port: int
    connection: str | None
    """Name of the policy's connection whose secret travels here; None without one."""
    trust: str | None
    """The policy's own roots, PEM."""
    policy_digest: str
    """Where a host is, and which addresses are open, are a policy's to say: another dials anew."""

    @property
    def address(self) -> tuple[str, str, int]:
        """The server: what it may have many of is counted by this, whatever they are shared by."""
        return self[:3]


@dataclass(slots=True)
class Upstream:
    """One open connection to an upstream."""

    destination: Destination
    stream: Stream
    server: Server
    slot: Slot
    opened_at: float
    on_closed: Callable[[], None] | None = None
    """Called once when it is closed, whoever closed it."""
    idle_since: float = 0.0
    used: int = 0
    """How many requests went over it."""

    def is_alive(self) -> bool:
        """Whether it can take another request."""
        now = time.monotonic()
        return not (
            self.stream.ended
            or self.stream.received
            or now - self.opened_at > LIFETIME_SECONDS
            or (self.used and now - self.idle_since > IDLE_SECONDS)
        )

    def close_soon(self) -> None:
        """Close once all is written, or where the upstream does not read, after a moment."""
        self.stream.close()
        asyncio.get_running_loop().call_later(_CLOSING_SECONDS, self.stream.abort)

    def end(self) -> None:
        """Make room for another, and tell of it."""
        self.slot.free()
        if self.on_closed is not None:
            self.on_closed()


class UpstreamError(OSError):
    """A connection that could not be made; ``reason`` is for the audit, the text stays inside."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Pool:
    """Opens connections where a DialPlan leads, and keeps those that can be used again.

    ``tell_wait`` is called for every request that has to wait for a connection.
    """

    def __init__(self, outbox: Outbox, cap: int, tell_wait: Callable[[], None]) -> None:
        self._outbox = outbox
        self._idle: defaultdict[Destination, deque[Upstream]] = defaultdict(deque)
        self._places: dict[tuple[str, str, int], Place] = {}
        self._cap = cap
        self._tell_wait = tell_wait

    def set_cap(self, cap: int) -> None:
        """Have at most so many connections to one server from now on."""
        self._cap = cap
        for place in self._places.values():
            place.set_cap(cap)

    def take(self, destination: Destination) -> Upstream | None:
        """An idle connection, the one used last first; None where there is none."""
        idle = self._idle.get(destination)
        while idle:
            upstream = idle.pop()
            if upstream.is_alive():
                return upstream
            upstream.stream.abort()
        self._idle.pop(destination, None)
        return None

    async def admit(
        self,
        destination: Destination,
        client: tuple[str, Stream],
        timeout_seconds: float,
        *,
        reuse: bool,
    ) -> Slot | Upstream:
        """The right to open a connection, or one that was given back; a wait, where it must be.

        ``client`` is whom to be fair to and whom to wait with, see await_turn, whose errors are
        raised. With ``reuse`` false it is the right to a new one.
        """
        deadline = time.monotonic() + timeout_seconds
        place = self._places.get(destination.address)
        if place is None:
            place = self._places[destination.address] = Place(self._cap)
        if (slot := place.enter()) is not None:
            return slot
        self._tell_wait()
        name, stream = client
        while True:
            waiter = place.join(name, destination if reuse else None)
            self._make_room(destination)
            given = await await_turn(waiter, stream, deadline - time.monotonic())
            if isinstance(given, Slot) or given.is_alive():
                return given
            given.stream.abort()

    def _make_room(self, destination: Destination) -> None:
        """Close a connection to the same server that nobody uses."""
        for other, idle in self._idle.items():
            while other.address == destination.address and idle:
                stream = idle.popleft().stream
                if not stream.failed:
                    return stream.abort()
        return None

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection whose last response was complete, for who waits or who will come."""
        upstream.idle_since = time.monotonic()
        upstream.used += 1
        place = upstream.slot.place
        if place.is_crowded():
            if not upstream.is_alive() or not place.hand_over(upstream):
                upstream.close_soon()
            return
        if not upstream.is_alive() or self._is_full(upstream.destination):
            upstream.close_soon()
            return
        # Counted only where there are enough destinations for so many.
        may_be_many = len(self._idle) * MAX_IDLE_PER_DESTINATION >= MAX_IDLE
        if may_be_many and sum(map(len, self._idle.values())) >= MAX_IDLE:
            self._close_oldest()
        self._idle[upstream.destination].append(upstream)

    def _is_full(self, destination: Destination) -> bool:
        return len(self._idle.get(destination, ())) >= MAX_IDLE_PER_DESTINATION

    def _close_oldest(self) -> None:
        """Close a connection to the destination that has had idle ones for the longest time."""
        destination, idle = next(item for item in self._idle.items() if item[1])
        idle.popleft().stream.abort()
        if not idle:
            del self._idle[destination]

    def retire(self, policy_digest: str) -> None:
        """Close what is idle and was opened under another policy: nobody takes it any more."""
        for destination in [d for d in self._idle if d.policy_digest != policy_digest]:
            for upstream in self._idle.pop(destination):
                upstream.stream.abort()

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        for destination, idle in list(self._idle.items()):
            while idle and not idle[0].is_alive():
                idle.popleft().stream.abort()
            if not idle:
                del self._idle[destination]
        for address, place in list(self._places.items()):
            if place.is_empty():
                del self._places[address]

    async def open(
        self, destination: Destination, plan: DialPlan, policy: Policy, server: Server, slot: Slot
    ) -> Upstream:
        """Connect as the plan says, and verify the plan's name. Raises UpstreamError."""
        stream = Stream(self._outbox, reads_rest=True)
        plan.use()
        server.timestamp_start = time.time()
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: stream, destination.host, destination.port
            )
        except TimeoutError as error:
            raise UpstreamError(Reason.UPSTREAM_TIMEOUT, str(error)) from None
        except OSError as error:
            raise UpstreamError(Reason.UPSTREAM_FAILED, str(error)) from None
        slot.bind(stream)
        server.timestamp_tcp_setup = time.time()
        try:
            if destination.scheme == "https":
                await _start_tls(stream, destination, plan, policy)
                server.timestamp_tls_setup = time.time()
        except BaseException:
            stream.abort()
            raise
        if stream.failed:
            raise UpstreamError(Reason.UPSTREAM_FAILED, "connection closed")
        server.state = ConnectionState.OPEN
        server.peername = stream.transport.get_extra_info("peername")
        server.sockname = stream.transport.get_extra_info("sockname")
        upstream = Upstream(destination, stream, server, slot, time.monotonic())
        stream.on_lost = upstream.end
        return upstream

    def close(self) -> None:
        """Close everything that is idle."""
        for idle in self._idle.values():
            for upstream in idle:
                upstream.stream.abort()
        self._idle.clear()


async def _start_tls(
    stream: Stream, destination: Destination, plan: DialPlan, policy: Policy
) -> None:
    try:
        async with asyncio.timeout(policy.limits.connect_timeout_seconds):
            context = upstream_context(destination.trust)
            await stream.start_tls(context, server=False, name=plan.host)
    except TimeoutError:
        raise UpstreamError(Reason.UPSTREAM_TIMEOUT, "TLS handshake") from None
    except OSError as error:
        raise UpstreamError(Reason.UPSTREAM_FAILED, _explain(error)) from None


def _explain(error: OSError) -> str:
    """In the words that mitmproxy uses, which is what the audit's sentences are made from."""
    verify = getattr(error, "verify_message", None)
    return f"Certificate verify failed: {verify}" if verify else str(error)
