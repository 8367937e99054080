"""One request and its answer: hooks, the upstream's connection, and both bodies as they stream."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.flow import Error
from mitmproxy.net.http.http1 import assemble_request_head, assemble_response_head
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from understudy.express.pool import Destination, Upstream, UpstreamError
from understudy.express.request import RequestBody, make_request
from understudy.express.response import (
    BadResponseError,
    NoResponseError,
    ResponseReader,
    write_response,
)
from understudy.express.splice import splice
from understudy.reasons import Reason
from understudy.stages.exchange import find_exchange
from understudy.stages.record import CLIENT_DISCONNECTED, denial_of
from understudy.stages.scrub import clean_head
from understudy.stages.upgrade import SWITCHING_PROTOCOLS
from understudy.wire.chunked import ChunkError
from understudy.wire.failures import describe_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from understudy.express.conversation import Conversation
    from understudy.stages.exchange import Exchange
    from understudy.wire.head import RequestHead

_BODYLESS = frozenset({204, 304})
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection"})
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_LAST_CHUNK = b"0\r\n\r\n"


class _Failed(Exception):  # noqa: N818 - control flow inside this module
    """The exchange broke off; the text is the engine's, the reason ours."""

    def __init__(self, text: str, reason: Reason | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason


class Transfer:
    """Carries one request; :meth:`run` says whether the client's connection can go on."""

    def __init__(self, conversation: Conversation, raw: bytes, head: RequestHead) -> None:
        self._conversation = conversation
        self._express = conversation.express
        self._stream = conversation.stream
        self._head = head
        self._body = RequestBody(conversation.stream, head)
        self._flow = http.HTTPFlow(conversation.client, Server(address=None), live=True)
        self._flow.request = make_request(raw, head, tls=conversation.session.tls_started)
        self._keep_alive = _keeps_alive(self._flow.request)
        self._upstream: Upstream | None = None
        self._body_bytes = 0
        self._answering = False
        """The response's head is on its way to the client."""

    async def run(self) -> bool:
        """Do all of it, within the time that a request may take."""
        seconds = self._conversation.limits.max_stream_seconds
        if seconds is None:
            return await self._carry()
        try:
            async with asyncio.timeout(seconds):
                return await self._carry()
        except TimeoutError:
            exchange = find_exchange(self._flow)
            if exchange is None or exchange.finished or exchange.refusal is not None:
                self._stream.abort()
                return False
            return await self._fail(_Failed("took too long", Reason.TIMEOUT))

    async def _carry(self) -> bool:
        flow, hooks = self._flow, self._express.hooks
        await hooks.call("requestheaders", flow)
        try:
            if self._is_settled():
                return await self._answer()
            if flow.request.headers.pop("expect", None) is not None:
                self._stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not flow.request.stream:
                flow.request.content = await self._collect()
                await hooks.call("request", flow)
                if self._is_settled():
                    return await self._answer()
            return await self._forward()
        except (ChunkError, ConnectionError, _Failed) as error:
            return await self._fail(error)
        finally:
            flow.live = False
            if self._upstream is not None:
                self._upstream.stream.abort()

    def _is_settled(self) -> bool:
        """Whether a hook answered the flow or killed it."""
        return self._flow.response is not None or not self._flow.live

    async def _answer(self) -> bool:
        """Send what an addon answered."""
        flow, hooks = self._flow, self._express.hooks
        exchange = find_exchange(flow)
        refused = exchange is not None and exchange.refusal is not None
        if flow.response is None or (refused and not self._body.done):
            # A refused body is not waited for; see what Conversation does with the rest of it.
            raise _Failed("killed")
        await hooks.call("request", flow)
        await hooks.call("responseheaders", flow)
        await hooks.call("response", flow)
        going_on = self._keep_alive and self._body.done
        write_response(self._stream, flow.response, close=not going_on)
        return going_on

    async def _collect(self) -> bytes:
        pieces = []
        while data := await self._body.read():
            pieces.append(data)
        return b"".join(pieces)

    # -- forwarding

    async def _forward(self) -> bool:
        flow = self._flow
        upstream, fresh = await self._connect()
        self._upstream = upstream
        flow.server_conn = upstream.server
        streams = bool(flow.request.stream)
        at_hand = not streams or self._body.at_hand()
        pump: asyncio.Task[None] | None = None
        first = assemble_request_head(flow.request)
        if at_hand:
            first += await self._whole_body(streams=streams)
        upstream.stream.write(first)
        try:
            if not at_hand:
                pump = asyncio.create_task(self._pump(upstream))
            try:
                return await self._respond(upstream, pump)
            except NoResponseError as error:
                if fresh or not self._may_repeat(at_hand=at_hand):
                    raise _Failed(str(error)) from None
            except BadResponseError as error:
                raise _Failed(str(error)) from None
            self._upstream = None
            upstream.stream.abort()
            upstream, _ = await self._connect(reuse=False)
            self._upstream = upstream
            flow.server_conn = upstream.server
            upstream.stream.write(first)
            try:
                return await self._respond(upstream, None)
            except BadResponseError as error:
                raise _Failed(str(error)) from None
        finally:
            if pump is not None and not pump.done():
                pump.cancel()
                await asyncio.wait([pump])

    def _may_repeat(self, *, at_hand: bool) -> bool:
        """A kept connection was closed meanwhile: asking twice is safe, and somebody waits."""
        return at_hand and not self._stream.ended and self._head.method in _REPEATABLE

    async def _connect(self, *, reuse: bool = True) -> tuple[Upstream, bool]:
        flow, express = self._flow, self._express
        request = flow.request
        exchange = self._exchange()
        policy = exchange.policy
        plan = exchange.session.plans.get((request.host, request.port))
        if policy is None or plan is None:
            raise _Failed("no decided destination", Reason.INTERNAL_ERROR)
        named = exchange.verdict.connection if exchange.verdict else None
        destination = Destination(
            request.scheme,
            request.host,
            request.port,
            named.name if named and exchange.swapped else None,
            policy.upstream.ca_pem,
        )
        if reuse and (kept := express.pool.take(destination)) is not None:
            return kept, False
        server = Server(address=(request.host, request.port), tls=request.scheme == "https")
        data = ServerConnectionHookData(server=server, client=self._conversation.client)
        await express.hooks.call("server_connect", data)
        if server.error:
            await express.hooks.call("server_connect_error", data)
            raise _Failed(server.error)
        try:
            upstream = await express.pool.open(destination, plan, policy, server)
        except UpstreamError as error:
            server.error = str(error)
            await express.hooks.call("server_connect_error", data)
            raise _Failed(str(error), error.reason) from None
        upstream.stream.on_lost = lambda: express.tell_disconnected(data)
        await express.hooks.call("server_connected", data)
        if (error_text := _error_of(server)) is not None:
            upstream.stream.abort()
            raise _Failed(error_text)
        return upstream, True

    def _exchange(self) -> Exchange:
        exchange = find_exchange(self._flow)
        if exchange is None or exchange.refusal is not None:
            raise _Failed("refused", Reason.INTERNAL_ERROR)
        return exchange

    async def _whole_body(self, *, streams: bool) -> bytes:
        """All of a body that is at hand, framed; the end of the request is told to the hooks."""
        flow = self._flow
        if not streams:
            return flow.request.raw_content or b""
        data = await self._collect()
        self._count(len(data))
        pieces = b"".join(_filtered(flow.request.stream, data)) if data else b""
        self._check_refusal()
        flow.request.timestamp_end = time.time()
        await self._express.hooks.call("request", flow)
        self._check_refusal()
        return pieces

    async def _pump(self, upstream: Upstream) -> None:
        """Send the body on as it comes."""
        flow = self._flow
        chunked = "chunked" in flow.request.headers.get("transfer-encoding", "").lower()
        try:
            while data := await self._body.read():
                self._count(len(data))
                for piece in _filtered(flow.request.stream, data):
                    upstream.stream.write(_chunk(piece) if chunked else piece)
                self._check_refusal()
                await upstream.stream.drain()
            flow.request.timestamp_end = time.time()
            await self._express.hooks.call("request", flow)
            self._check_refusal()
            if chunked:
                upstream.stream.write(_LAST_CHUNK)
        except (ChunkError, ConnectionError, _Failed) as error:
            exchange = find_exchange(flow)
            if exchange is not None and isinstance(error, ChunkError):
                exchange.refuse(Reason.BAD_HEADER)
            # Ends the reading side too, which then finds the refusal or the client gone.
            upstream.stream.abort()

    def _count(self, size: int) -> None:
        limit = self._conversation.limits.max_request_body_bytes
        self._body_bytes += size
        if limit is not None and self._body_bytes > limit:
            self._exchange().refuse(Reason.BODY_TOO_LARGE)

    def _check_refusal(self) -> None:
        exchange = find_exchange(self._flow)
        if exchange is not None and exchange.refusal is not None:
            raise _Failed("refused", exchange.refusal)

    # -- the response

    async def _respond(self, upstream: Upstream, pump: asyncio.Task[None] | None) -> bool:
        flow, hooks = self._flow, self._express.hooks
        reader = ResponseReader(upstream.stream, head_request=self._head.method == "HEAD")
        self._stream.on_end = upstream.stream.abort if pump is None else None
        try:
            response = await self._read_final_head(reader, pump)
            exchange = self._exchange()
            is_switch = response.status_code == SWITCHING_PROTOCOLS
            if is_switch and exchange.websocket is not None and self._stream.received:
                # It cannot know yet what it speaks to (RFC 6455 4.1).
                exchange.refuse(Reason.BAD_HEADER, "the client spoke before the 101")
                self._check_refusal()
            flow.response = response
            await hooks.call("responseheaders", flow)
            if not flow.live:
                raise _Failed("killed")
            if flow.response.status_code == SWITCHING_PROTOCOLS:
                return await self._carry_websocket(upstream)
            return await self._relay(upstream, reader, pump)
        finally:
            self._stream.on_end = None

    async def _read_final_head(
        self, reader: ResponseReader, pump: asyncio.Task[None] | None
    ) -> http.Response:
        limits = self._conversation.limits
        while True:
            if pump is not None and not pump.done():
                # The clock runs from the end of the request; an answer may come before that.
                reading = asyncio.ensure_future(reader.read_head())
                try:
                    await asyncio.wait([reading, pump], return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError:
                    reading.cancel()
                    raise
            else:
                reading = asyncio.ensure_future(reader.read_head())
            try:
                response = await asyncio.wait_for(reading, limits.first_byte_timeout_seconds)
            except TimeoutError:
                raise _Failed("timed out", Reason.UPSTREAM_TIMEOUT) from None
            if response.status_code >= 200 or response.status_code == SWITCHING_PROTOCOLS:  # noqa: PLR2004 - final
                return response
            clean_head(self._exchange(), response)
            self._stream.write(assemble_response_head(response))

    async def _relay(
        self, upstream: Upstream, reader: ResponseReader, pump: asyncio.Task[None] | None
    ) -> bool:
        flow = self._flow
        response = flow.response
        assert response is not None
        bodyless = self._head.method == "HEAD" or response.status_code in _BODYLESS
        framing = self._frame(response, bodyless=bodyless)
        pending = assemble_response_head(response)
        if not bodyless and not reader.has_more():
            # Who waits for the head alone, as the reader of a stream does, has it now.
            self._send(pending)
            pending = b""
        while data := await self._next_piece(reader, bodyless=bodyless):
            pending += b"".join(map(framing, _filtered(response.stream, data)))
            self._check_refusal()
            if reader.is_whole():
                continue  # the end goes out in the same write
            self._send(pending)
            pending = b""
            await self._stream.drain()
        if not bodyless:
            pending += b"".join(map(framing, _filtered(response.stream, b"")))
            self._check_refusal()
            pending += _LAST_CHUNK if framing is _chunk else b""
        response.timestamp_end = time.time()
        await self._express.hooks.call("response", flow)
        if not flow.live:
            raise _Failed("killed")
        self._send(pending)
        await self._stream.drain()
        finished = pump is None or pump.done()
        if finished and reader.may_reuse() and self._body.done:
            upstream.used += 1
            self._upstream = None
            self._express.pool.give_back(upstream)
        return self._keep_alive and finished and self._body.done and not self._stream.ended

    def _send(self, answer: bytes) -> None:
        if answer:
            self._answering = True
            self._stream.write(answer)

    async def _carry_websocket(self, upstream: Upstream) -> bool:
        """Pass the 101 on and splice; the hooks hear of the end as of a response's."""
        flow, response = self._flow, self._flow.response
        websocket = self._exchange().websocket
        if response is None or websocket is None:
            raise _Failed("refused", Reason.INTERNAL_ERROR)
        self._stream.on_end = None
        self._send(assemble_response_head(response))

        def pass_up(data: bytes) -> bytes:
            self._count(len(data))
            return self._pass(flow.request.stream, data)

        def pass_down(data: bytes) -> bytes:
            return self._pass(response.stream, data)

        await splice(self._stream, upstream.stream, up=pass_up, down=pass_down)
        if websocket.closed:
            response.timestamp_end = time.time()
            await self._express.hooks.call("response", flow)
        else:
            text = "the WebSocket ended without a close frame"
            flow.error = Error(CLIENT_DISCONNECTED if self._stream.ended else text)
            await self._express.hooks.call("error", flow)
        self._upstream = None
        upstream.close_soon()
        return False

    def _pass(self, stream: object, data: bytes) -> bytes:
        passed = b"".join(_filtered(stream, data))
        self._check_refusal()
        return passed

    async def _next_piece(self, reader: ResponseReader, *, bodyless: bool) -> bytes:
        if bodyless:
            return b""
        try:
            return await reader.read_body()
        except BadResponseError as error:
            raise _Failed(str(error)) from None

    def _frame(self, response: http.Response, *, bodyless: bool) -> Callable[[bytes], bytes]:
        """Set the framing headers for the client; gives what frames a piece of the body."""
        headers = response.headers
        response.headers = headers = http.Headers(
            [field for field in headers.fields if field[0].lower() not in _HOP_BY_HOP]
        )
        chunked = "transfer-encoding" in headers
        if chunked and not self._flow.request.is_http11:
            del headers["transfer-encoding"]
            chunked = False
        if not bodyless and not chunked and "content-length" not in headers:
            if self._flow.request.is_http11:
                headers["Transfer-Encoding"] = "chunked"
                chunked = True
            else:
                self._keep_alive = False
        if not self._keep_alive:
            headers["Connection"] = "close"
        return _chunk if chunked else bytes

    # -- failing

    async def _fail(self, error: Exception) -> bool:
        """Record how it broke off, and answer with the denial where nothing was answered yet."""
        flow = self._flow
        exchange = find_exchange(flow)
        text = str(error)
        if exchange is not None:
            if isinstance(error, ChunkError):
                exchange.refuse(Reason.BAD_HEADER)
            elif self._stream.ended:
                text = CLIENT_DISCONNECTED
            elif isinstance(error, _Failed) and error.reason is not None:
                exchange.refuse(error.reason, describe_failure(text))
        if not self._answering:
            flow.response = None  # nobody saw it: what is recorded is the answer that follows
        flow.error = Error(text)
        await self._express.hooks.call("error", flow)
        if exchange is None or exchange.refusal is None or self._answering:
            self._stream.abort()
            return False
        if exchange.refusal.status is None:
            return False
        await self._conversation.answer_and_drain(
            denial_of(exchange), more_follows=not self._body.done
        )
        return False


def _error_of(server: Server) -> str | None:
    """What a hook has set in the meantime."""
    return server.error


def _keeps_alive(request: http.Request) -> bool:
    options = request.headers.get("connection", "").lower()
    return request.is_http11 and "close" not in options


def _filtered(stream: object, data: bytes) -> Iterable[bytes]:
    """What a flow's stream attribute makes of a piece of a body; no empty pieces."""
    if not callable(stream):
        return (data,) if data else ()
    made = stream(data)
    if isinstance(made, bytes):
        made = (made,)
    return [piece for piece in made if piece]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
