"""One client connection: CONNECT, the tunnel's TLS, and the requests in it, one after another."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.tls import ClientHello, ClientHelloData, TlsData

from understudy.audit.request_id import new_request_id
from understudy.engine.failures import log_failure
from understudy.express.hello import read_hello
from understudy.express.messages import make_flow, make_request, write_response
from understudy.express.request import MAX_DRAIN_SECONDS, MAX_DRAINED_BYTES
from understudy.express.transfer import Transfer
from understudy.reasons import Reason
from understudy.stages.refusal import Denial
from understudy.wire.head import looks_like_http
from understudy.wire.hello import HelloScan
from understudy.wire.scan import HeadScan, Incomplete, Rejected

if TYPE_CHECKING:
    from understudy.express.engine import Express
    from understudy.express.stream import Stream
    from understudy.policy.model import Limits
    from understudy.stages.exchange import Session
    from understudy.wire.head import RequestHead

_LINGER_SECONDS = 2.0
"""A client that sends nothing for this long after its refusal has had its time to read it."""
_TLS_RECORD_START = 3
_MODE = ProxyMode.parse("regular")


class Conversation:
    """Runs one client connection from accept to close."""

    def __init__(self, express: Express, stream: Stream) -> None:
        self.express = express
        self.stream = stream
        self.client = Client(
            peername=stream.transport.get_extra_info("peername"),
            sockname=stream.transport.get_extra_info("sockname"),
            timestamp_start=time.time(),
            state=ConnectionState.OPEN,
            proxy_mode=_MODE,
        )
        self.nowhere = Server(address=None)
        """The upstream of requests that have none yet."""
        self.session: Session

    @property
    def limits(self) -> Limits:
        """The budgets in force."""
        return self.express.limits

    async def run(self) -> None:
        """Serve until either side has had enough."""
        hooks = self.express.hooks
        await hooks.call("client_connected", self.client)
        found = self.express.sessions.find(self.client)
        try:
            if found is not None and not self.client.error:
                self.session = found
                await self._converse()
        except ConnectionError:
            pass
        except Exception as error:  # noqa: BLE001 - a connection has its line, whatever breaks
            log_failure("a connection", error)
            hooks.refuse_session(found)
        finally:
            self.stream.close()
            # A client that does not read keeps its connection, which counts until it is gone.
            await self.stream.wait_closed()
            self.client.timestamp_end = time.time()
            self.client.state = ConnectionState.CLOSED
            await hooks.call("client_disconnected", self.client)

    def end_idle(self) -> None:
        """Close for standing still; a request that waits for its upstream has a time of its own."""
        session = self.express.sessions.find(self.client)
        exchange = session.exchange if session else None
        if exchange is None or not exchange.waits_for_upstream:
            self.cut()

    def cut(self) -> None:
        """Close at once, because time is up."""
        session = self.express.sessions.find(self.client)
        if session is not None:
            self.express.recorder.time_out(session)
        self.stream.abort()

    async def _converse(self) -> None:
        while (head := await self._read_head()) is not None:
            self.session.head = head
            if head.refusal is not None:
                policy = self.express.policies.current
                denial = self.express.recorder.refuse_head(self.session, head, policy)
                return await self.answer_and_drain(denial, more_follows=head.has_body)
            if head.method == "CONNECT" and self.session.tunnel is None:
                going_on = await self._connect(head)
            else:
                going_on = await Transfer(self, head).run()
            if not going_on:
                return None
            await self.stream.drain()
            if self.stream.received:
                # Requests that are refused wait for nothing: others have their turn in between.
                await asyncio.sleep(0)
        return None

    # -- heads

    async def _read_head(self) -> RequestHead | None:
        """The next request head; None where there is none to come."""
        stream = self.stream
        # The time for a head runs from its first byte, which may be that of a TLS record.
        if not await stream.stir():
            return None
        received, limits = stream.received, self.limits  # not those of before the wait
        end = received.find(b"\r\n\r\n") + 4
        if 3 < end <= limits.max_header_bytes:  # noqa: PLR2004 - found
            head = self.express.heads.recall(bytes(received[:end]), limits.max_headers)
            if head is not None:
                stream.take(end)
                return head
        raw = await self._read_raw_head()
        if raw is None:
            return None
        head = self.express.heads.read(raw, self.limits.max_headers)
        if head is None:
            self.session.head = None
            await self._reject(Reason.NOT_HTTP)
        return head

    async def _read_raw_head(self) -> bytes | None:
        """The bytes of a head that may still be coming; None where the connection is at its end."""
        stream = self.stream
        deadline: float | None = None
        scan = HeadScan(inside_tls=self.session.tls_started)
        while True:
            found = scan.look(stream.received, self.limits.max_header_bytes)
            if isinstance(found, Rejected):
                await self._reject(found.reason, found.detail)
                return None
            if not isinstance(found, Incomplete):
                return stream.take(found)
            loop = asyncio.get_running_loop()
            deadline = deadline or loop.time() + self.limits.head_timeout_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    more = await stream.wait()
            except TimeoutError:
                await self._reject(Reason.TIMEOUT, "the request head did not arrive in time")
                return None
            if not more:
                if stream.received:
                    await self._reject(Reason.CLIENT_CLOSED, "in the middle of a request head")
                return None

    async def _reject(self, reason: Reason, detail: str | None = None) -> None:
        """Refuse bytes that never became a request; answer where the reason has a status."""
        denial = Denial(reason, new_request_id())
        self.express.recorder.reject(self.session, reason, detail, denial.request_id)
        if reason.status is not None:
            await self.answer_and_drain(denial)

    async def answer_and_drain(self, denial: Denial, *, more_follows: bool = True) -> None:
        """Write an answer that ends the connection; drop what is still sent, so it is read.

        Where nothing more of the request can come, the connection can end at once.
        """
        stream = self.stream
        stream.write(denial.to_bytes())
        left = MAX_DRAINED_BYTES
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_DRAIN_SECONDS
        while more_follows and left > 0 and loop.time() < until:
            left -= max(1, len(stream.take()))
            try:
                async with asyncio.timeout(_LINGER_SECONDS):
                    more_follows = bool(stream.received) or await stream.wait()
            except TimeoutError:
                return

    # -- CONNECT and TLS

    async def _connect(self, head: RequestHead) -> bool:
        flow = make_flow(self.client, self.nowhere, make_request(head, tls=False))
        await self.express.hooks.call("http_connect", flow)
        if flow.response is not None:
            going_on = head.keeps_alive and not head.has_body
            write_response(self.stream, flow.response, close=not going_on)
            return going_on
        flow.response = http.Response.make(200, b"", http.Headers())
        await self.express.hooks.call("http_connected", flow)
        self.stream.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return await self._enter_tunnel()

    async def _enter_tunnel(self) -> bool:
        """What comes first in a tunnel: one TLS handshake, or cleartext HTTP (to be refused)."""
        stream = self.stream
        try:
            async with asyncio.timeout(self.limits.handshake_timeout_seconds):
                while len(stream.received) < _TLS_RECORD_START:
                    first = bytes(stream.received[:1])
                    if first and first != b"\x16" and not looks_like_http(bytes(stream.received)):
                        break
                    if first and first != b"\x16":
                        return True
                    if not await stream.wait():
                        return False
                if starts_like_tls_record(bytes(stream.received[:8])):
                    return await self._accept_tls()
        except TimeoutError:
            await self._reject(Reason.TIMEOUT, "the TLS handshake did not arrive in time")
            return False
        if looks_like_http(bytes(stream.received)):
            return True
        await self._reject(Reason.NOT_HTTP)
        return False

    async def _read_hello(self) -> ClientHello | None:
        """The ClientHello, left where it is; None where there is none, which is recorded."""
        received = self.stream.received
        scan = HelloScan()
        while True:
            found = scan.look(received)
            if isinstance(found, Rejected):
                await self._reject(found.reason, found.detail)
                return None
            if not isinstance(found, Incomplete):
                try:
                    hello = read_hello(bytes(received[:found]))
                except ValueError:
                    await self._reject(Reason.NOT_HTTP, "the ClientHello cannot be read")
                    return None
                if hello is not None:
                    return hello
            if not await self.stream.wait():
                await self._reject(Reason.CLIENT_CLOSED, "in the TLS handshake")
                return None

    async def _accept_tls(self) -> bool:
        stream, hooks = self.stream, self.express.hooks
        context = Context(self.client, self.express.options)
        hello = await self._read_hello()
        if hello is None:
            return False
        self.client.sni = hello.sni
        self.client.alpn_offers = hello.alpn_protocols
        await hooks.call("tls_clienthello", ClientHelloData(context, hello))
        tunnel = self.session.tunnel
        if self.session.refusal is not None or tunnel is None:
            return False
        data = TlsData(self.client, context)
        server_context = self.express.server_contexts.serve(tunnel.host)
        try:
            await stream.start_tls(server_context, server=True, name=None)
        except OSError as error:
            self.client.error = str(error)
            await hooks.call("tls_failed_client", data)
            return False
        self.client.tls = True
        self.client.timestamp_tls_setup = time.time()
        await hooks.call("tls_established_client", data)
        return self.session.refusal is None
