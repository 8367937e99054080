"""The one place where a name is looked up and a TCP connection is opened.

The engine's event loop refuses every outgoing connection that no :class:`DialPlan` stands for:
"no look-up and no SYN before the decision" is a property of the loop, not of the callers'
discipline. A plan holds the addresses that passed the guard, and only those are connected to, so
a name cannot change its address between the check and the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from understudy.engine.lookup import Lookups
from understudy.engine.ports import EXHAUSTED, NO_DESCRIPTORS
from understudy.policy.addresses import is_guarded, is_within
from understudy.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from understudy.policy.model import Policy

    type Attempt = Callable[[str, int], Awaitable[Any]]
    """Connects to one (address, port); raises OSError."""

logger = logging.getLogger(__name__)

PLAN_LIFETIME_SECONDS = 10.0
"""A plan's addresses are looked up again after this, for new connections only."""
_CACHE_ENTRIES = 1024
_MAX_ADDRESSES = 32
"""Of one name, the resolver's first: each may take the whole time for connecting."""
# Families, each with an address for documentation (RFC 5737, 3849), which no machine has.
_V4 = (socket.AF_INET, "192.0.2.1")
_V6 = (socket.AF_INET6, "2001:db8::1")
_MAX_ACCEPTED = 4

_current_plan: ContextVar[DialPlan | None] = ContextVar("understudy_dial_plan", default=None)


class DialError(OSError):
    """A connection that was refused here or could not be made; the text names no address."""


@dataclass(frozen=True, slots=True)
class DialPlan:
    """A decided destination and the only addresses that may be connected to for it."""

    host: str
    """The name that TLS verifies; the policy's host or the gateway's."""
    port: int
    addresses: tuple[tuple[str, int], ...]
    """(address, port) that passed the guard; empty where the look-up failed."""
    made_at: float
    connect_timeout_seconds: float

    def is_fresh(self) -> bool:
        """Whether the addresses may still be used for a new connection."""
        return bool(self.addresses) and time.monotonic() - self.made_at < PLAN_LIFETIME_SECONDS

    def use(self) -> None:
        """Let the running task's next outgoing connection follow this plan."""
        _current_plan.set(self)


class Dialer:
    """Looks names up and checks what they resolve to.

    ``own_ports`` are the proxy's and the admin server's: no plan ever leads to them.
    """

    def __init__(self, own_ports: Callable[[], Iterable[int]]) -> None:
        self._own_ports = own_ports
        self._lookups = Lookups()
        self._cache: dict[tuple[str, int, str], DialPlan] = {}

    def recall(self, host: str, port: int, policy: Policy) -> DialPlan | None:
        """The plan of an earlier look-up under the same policy, if it is fresh."""
        plan = self._cache.get((host, port, policy.digest))
        return plan if plan is not None and plan.is_fresh() else None

    async def plan(self, host: str, port: int, policy: Policy) -> DialPlan | Reason:
        """Look ``host`` up and keep the addresses that the policy lets us reach.

        A failed look-up gives a plan without addresses: that is the upstream's failure, not a
        denial. Addresses that are all guarded give ``address_denied``.
        """
        override = policy.upstream.connect_to.get((host, port))
        timeout_seconds = policy.limits.connect_timeout_seconds
        found = await self._look_up(*(override or (host, port)), timeout_seconds)
        gateway = policy.gateway
        declared = override is not None or (
            gateway is not None and (host, port) == (gateway.host, gateway.port)
        )
        allowed = tuple(
            (address, to_port)
            for address, to_port in found
            if (
                declared
                or is_within(address, policy.upstream.allow_addresses)
                # What this machine serves under a public address of its own is as internal.
                or not (is_guarded(address) or _is_local(address))
            )
            and not self._is_own(address, to_port)
        )
        if found and not allowed:
            return Reason.ADDRESS_DENIED
        plan = DialPlan(host, port, allowed, time.monotonic(), timeout_seconds)
        if len(self._cache) >= _CACHE_ENTRIES:
            self._cache.clear()
        self._cache[host, port, policy.digest] = plan
        return plan

    async def _look_up(self, host: str, port: int, timeout_seconds: float) -> list[tuple[str, int]]:
        with contextlib.suppress(ValueError):
            return [(str(ip_address(host)), port)]
        try:
            found = await self._lookups.find(host, timeout_seconds)
        except (OSError, TimeoutError):
            return []
        return [(address, port) for address in found[:_MAX_ADDRESSES]]

    def _is_own(self, address: str, port: int) -> bool:
        return port in self._own_ports() and _is_local(address)


def _is_local(address: str) -> bool:
    """Whether ``address`` is one of this machine's own: only those can be bound to.

    Where that cannot be found out, for want of a descriptor say, it counts as one.
    """
    family, nobodys = _V6 if ":" in address else _V4
    problem = _bind(family, address)
    if problem is None and not is_guarded(address):
        # Linux can be told to bind to any address (ip_nonlocal_bind): then it proves nothing.
        return _bind(family, nobodys) is not None
    return problem not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _bind(family: socket.AddressFamily, address: str) -> int | None:
    """Try to bind to ``address``: None where that works, else the errno."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno or 0
    return None


async def connect_as_planned(attempt: Attempt) -> Any:
    """Try the addresses of the running task's plan, one after another; DialError without one."""
    plan = _current_plan.get()
    if plan is None:
        raise DialError("refused: no decided destination")
    failure: OSError = DialError("the name could not be looked up")
    for address, port in plan.addresses:
        try:
            async with asyncio.timeout(plan.connect_timeout_seconds):
                return await attempt(address, port)
        except TimeoutError:
            failure = TimeoutError("timed out")
        except OSError as error:
            failure = error
    raise failure


class GuardedEventLoop(asyncio.SelectorEventLoop):
    """An event loop that opens no TCP connection without the running task's DialPlan."""

    async def create_connection(self, protocol_factory: Any, *_: Any, **options: Any) -> Any:
        """Connect as the plan says; host and port from the caller are not believed."""
        options.pop("host", None)
        options.pop("port", None)
        connect = super().create_connection
        transport, protocol = await connect_as_planned(
            lambda address, port: connect(protocol_factory, address, port, **options)
        )
        if transport.get_extra_info("peername") is None:
            # Reset before it could be asked: mitmproxy trips over that, and its client waits on.
            transport.abort()
            raise ConnectionResetError("connection closed")
        return transport, protocol

    def _accept_connection(
        self,
        factory: Any,
        listening: Any,
        context: Any = None,
        server: Any = None,
        backlog: int = _MAX_ACCEPTED,
        *rest: Any,
    ) -> None:
        """Take a few connections in a turn, so that few attempts fail where no descriptor is left.

        asyncio tries as often as the backlog is long, and plans another try for each.
        """
        accept = super()._accept_connection  # type: ignore[misc] # private
        accept(factory, listening, context, server, min(backlog, _MAX_ACCEPTED), *rest)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Say in a sentence what asyncio tells with a trace."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in EXHAUSTED and "socket" in context:
            logger.warning(NO_DESCRIPTORS)
        else:
            super().call_exception_handler(context)
