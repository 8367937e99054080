"""Upstream connections, kept and shared across clients.

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
from understudy.express.stream import Stream
from understudy.reasons import Reason
from understudy.wire.fields import first

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.engine.dialer import DialPlan
    from understudy.policy.model import Policy
    from understudy.wire.head import RequestHead

IDLE_SECONDS = 30.0
LIFETIME_SECONDS = 600.0
_CLOSING_SECONDS = 2.0
MAX_IDLE_PER_DESTINATION = 64
_CONNECTION_LOGINS = (b"ntlm", b"negotiate")


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


@dataclass(slots=True)
class Upstream:
    """One open connection to an upstream."""

    destination: Destination
    stream: Stream
    server: Server
    opened_at: float
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


def binds_connection(head: RequestHead, response: http.Response) -> bool:
    """Whether a login may be the connection's and not the request's: NTLM, Negotiate.

    Who is given such a connection next would be logged in as who had it before.
    """
    if first(head.fields, b"authorization").lower().startswith(_CONNECTION_LOGINS):
        return True
    return any(
        name.lower() == b"www-authenticate" and value.lower().startswith(_CONNECTION_LOGINS)
        for name, value in response.data.headers.fields
    )


class UpstreamError(OSError):
    """A connection that could not be made; ``reason`` is for the audit, the text stays inside."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Pool:
    """Opens connections where a DialPlan leads, and keeps those that can be used again."""

    def __init__(self) -> None:
        self._idle: defaultdict[Destination, deque[Upstream]] = defaultdict(deque)

    def take(self, destination: Destination) -> Upstream | None:
        """An idle connection, the one used last first; None where there is none."""
        waiting = self._idle.get(destination)
        while waiting:
            upstream = waiting.pop()
            if upstream.is_alive():
                return upstream
            upstream.stream.close()
        self._idle.pop(destination, None)
        return None

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection whose last response was complete."""
        upstream.idle_since = time.monotonic()
        upstream.used += 1
        waiting = self._idle[upstream.destination]
        if not upstream.is_alive() or len(waiting) >= MAX_IDLE_PER_DESTINATION:
            upstream.stream.close()
            return
        waiting.append(upstream)

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        for destination, waiting in list(self._idle.items()):
            while waiting and not waiting[0].is_alive():
                waiting.popleft().stream.close()
            if not waiting:
                del self._idle[destination]

    async def open(
        self, destination: Destination, plan: DialPlan, policy: Policy, server: Server
    ) -> Upstream:
        """Connect as the plan says, and verify the plan's name. Raises UpstreamError."""
        stream = Stream()
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
        server.timestamp_tcp_setup = time.time()
        if destination.scheme == "https":
            try:
                async with asyncio.timeout(policy.limits.connect_timeout_seconds):
                    context = upstream_context(destination.trust)
                    await stream.start_tls(context, server=False, name=plan.host)
            except TimeoutError:
                stream.abort()
                raise UpstreamError(Reason.UPSTREAM_TIMEOUT, "TLS handshake") from None
            except OSError as error:
                stream.abort()
                raise UpstreamError(Reason.UPSTREAM_FAILED, _explain(error)) from None
            server.timestamp_tls_setup = time.time()
        server.state = ConnectionState.OPEN
        server.peername = stream.transport.get_extra_info("peername")
        server.sockname = stream.transport.get_extra_info("sockname")
        return Upstream(destination, stream, server, time.monotonic())

    def close(self) -> None:
        """Close everything that is idle."""
        for waiting in self._idle.values():
            for upstream in waiting:
                upstream.stream.abort()
        self._idle.clear()


def _explain(error: OSError) -> str:
    """In the words that mitmproxy uses, which is what the audit's sentences are made from."""
    verify = getattr(error, "verify_message", None)
    return f"Certificate verify failed: {verify}" if verify else str(error)
