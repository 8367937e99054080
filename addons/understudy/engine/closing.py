"""When connections end on mitmproxy's engine: in time, wholly, and for a reason that is told.

mitmproxy knows one time, that of a connection on which nothing moves, and takes a connection that
it closes so for one that the client has closed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mitmproxy.proxy import layers

from understudy.reasons import Reason
from understudy.stages.exchange import find_exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mitmproxy import http
    from mitmproxy.connection import Client, Connection
    from mitmproxy.proxy import layer
    from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
    from mitmproxy.tls import TlsData

    from understudy.policy.model import Limits
    from understudy.stages.exchange import Sessions
    from understudy.stages.record import Recorder

_UNREAD_SECONDS = 30.0
"""What a client has not read this long after its connection ended is thrown away."""
_LOOK_AGAIN_SECONDS = 1.0


class Closing:
    """Ends handshakes and streams that take too long, and connections that stand still."""

    name = "understudy-closing"

    def __init__(
        self,
        sessions: Sessions,
        recorder: Recorder,
        handlers: Mapping[tuple[object, ...] | str, ProxyConnectionHandler],
        limits: Callable[[], Limits],
    ) -> None:
        self._sessions = sessions
        self._recorder = recorder
        self._handlers = handlers
        self._limits = limits
        self._timers: dict[str, dict[str, asyncio.TimerHandle]] = {}
        """By the client's id, and by what is waited for."""
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._unread: set[asyncio.WriteTransport] = set()
        """Of closed connections that were sent more than their clients had read."""

    # -- a client's connection as a whole

    def client_connected(self, client: Client) -> None:
        """Take over what happens to a connection on which nothing moves."""
        handler = self._handlers[client.id]
        writer = handler.transports[client].writer
        assert isinstance(writer, asyncio.StreamWriter)
        self._writers[client.id] = writer

        async def end_when_idle() -> None:
            watchdog = handler.timeout_watchdog
            while True:
                left = watchdog.last_activity + watchdog.timeout - time.time()
                if left < 0 and not self._waits_for_upstream(client):
                    break
                await asyncio.sleep(max(left, _LOOK_AGAIN_SECONDS))
            self._end(client)

        handler.timeout_watchdog.callback = end_when_idle

    def client_disconnected(self, client: Client) -> None:
        """Close the socket of a connection that mitmproxy is done with.

        It forgets to where two close commands come in a row: the second cancels the task that
        the first one told to close. And what the client does not read keeps a socket open.
        """
        self._stop_all(client.id)
        writer = self._writers.pop(client.id, None)
        if writer is None:
            return
        writer.close()
        if writer.transport.get_write_buffer_size():
            self._unread = {*self._still_unread(), writer.transport}
            asyncio.get_running_loop().call_later(_UNREAD_SECONDS, writer.transport.abort)

    def has_unread(self) -> bool:
        """Whether a client has yet to read the end of what its closed connection was sent."""
        return bool(self._still_unread())

    def _still_unread(self) -> list[asyncio.WriteTransport]:
        return [transport for transport in self._unread if transport.get_write_buffer_size()]

    # -- handshakes

    def http_connected(self, flow: http.HTTPFlow) -> None:
        """Begin to wait for the tunnel's handshake."""
        client = flow.client_conn
        self._start(
            client.id,
            "handshake",
            self._limits().handshake_timeout_seconds,
            lambda: self._end_handshake(client),
        )

    def next_layer(self, data: layer.NextLayer) -> None:
        """Clear text in the tunnel: the deadline of a request's head holds from here on."""
        if isinstance(data.layer, layers.HttpLayer):
            self._stop(data.context.client.id, "handshake")

    def tls_established_client(self, data: TlsData) -> None:
        """The handshake was in time."""
        self._stop(data.context.client.id, "handshake")

    def tls_start_server(self, data: TlsData) -> None:
        """Begin to wait for the upstream's handshake."""
        client, server = data.context.client, data.conn
        self._start(
            client.id,
            server.id,
            self._limits().connect_timeout_seconds,
            lambda: self._end_upstream(client, server),
        )

    def tls_established_server(self, data: TlsData) -> None:
        """The upstream's handshake was in time."""
        self._stop(data.context.client.id, data.conn.id)

    # -- requests

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Begin to count the request's whole time, where it is limited."""
        seconds = self._limits().max_stream_seconds
        if seconds is not None and find_exchange(flow) is not None:
            client = flow.client_conn
            self._start(client.id, "stream", seconds, lambda: self._end(client))

    def response(self, flow: http.HTTPFlow) -> None:
        """The answer came whole in time."""
        self._stop(flow.client_conn.id, "stream")

    def error(self, flow: http.HTTPFlow) -> None:
        """The request, or its upstream's handshake, broke off in time."""
        self._stop_all(flow.client_conn.id)

    # -- timers and what they do

    def _start(self, client: str, what: str, seconds: float, act: Callable[[], None]) -> None:
        self._stop(client, what)
        timer = asyncio.get_running_loop().call_later(seconds, act)
        self._timers.setdefault(client, {})[what] = timer

    def _stop(self, client: str, what: str) -> None:
        timer = self._timers.get(client, {}).pop(what, None)
        if timer is not None:
            timer.cancel()

    def _stop_all(self, client: str) -> None:
        for timer in self._timers.pop(client, {}).values():
            timer.cancel()

    def _waits_for_upstream(self, client: Client) -> bool:
        session = self._sessions.find(client)
        exchange = session.exchange if session else None
        return exchange is not None and exchange.waits_for_upstream

    def _end(self, client: Client) -> None:
        """Close a client's connection for its time; nothing that waits to be written is."""
        session = self._sessions.find(client)
        if session is not None:
            self._recorder.time_out(session)
        self._cut(client, client)

    def _end_handshake(self, client: Client) -> None:
        session = self._sessions.find(client)
        if session is not None:
            self._recorder.reject(
                session, Reason.TIMEOUT, "the TLS handshake did not arrive in time"
            )
        self._cut(client, client)

    def _end_upstream(self, client: Client, server: Connection) -> None:
        session = self._sessions.find(client)
        if session is not None and session.exchange is not None:
            session.exchange.refuse(Reason.UPSTREAM_TIMEOUT)
        self._cut(client, server)

    def _cut(self, client: Client, connection: Connection) -> None:
        handler = self._handlers.get(client.id)
        io = handler.transports.get(connection) if handler else None
        if io is None:
            return
        if isinstance(io.writer, asyncio.StreamWriter):
            io.writer.transport.abort()
        if io.handler is not None:
            io.handler.cancel("timeout")
