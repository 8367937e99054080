"""One request and its answer: the hooks, the upstream's connection, and how it may break off."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from mitmproxy.connection import Server
from mitmproxy.flow import Error
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from understudy.engine.failures import log_failure
from understudy.express.broken import Broken
from understudy.express.download import Download
from understudy.express.messages import make_flow, make_request, write_response
from understudy.express.places import Slot
from understudy.express.pool import Destination, UpstreamError
from understudy.express.request import RequestBody
from understudy.express.response import BadResponseError, NoResponseError
from understudy.express.upload import Upload
from understudy.reasons import Reason
from understudy.stages.exchange import find_exchange
from understudy.stages.record import CLIENT_DISCONNECTED, denial_of
from understudy.wire.chunked import ChunkError
from understudy.wire.failures import describe_failure

if TYPE_CHECKING:
    from understudy.engine.dialer import DialPlan
    from understudy.express.conversation import Conversation
    from understudy.express.pool import Upstream
    from understudy.policy.model import Policy
    from understudy.stages.exchange import Exchange
    from understudy.wire.head import RequestHead

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Transfer:
    """Carries one request; :meth:`run` says whether the client's connection can go on."""

    def __init__(self, conversation: Conversation, head: RequestHead) -> None:
        self.conversation = conversation
        self.express = conversation.express
        self.client = conversation.stream
        self.head = head
        self.limits = conversation.limits
        self.body = RequestBody(conversation.stream, head)
        self.flow = make_flow(
            conversation.client,
            conversation.nowhere,
            make_request(head, tls=conversation.session.tls_started),
        )
        self._exchange: Exchange | None = None
        self.keep_alive = head.keeps_alive
        self.upstream: Upstream | None = None
        self.answering = False
        """The response's head is on its way to the client."""

    async def run(self) -> bool:
        """Do all of it, within the time that a request may take."""
        seconds = self.limits.max_stream_seconds
        outbox = self.express.outbox
        outbox.requests += 1
        try:
            if seconds is None:
                return await self._carry()
            async with asyncio.timeout(seconds):
                return await self._carry()
        except TimeoutError:
            exchange = find_exchange(self.flow)
            if exchange is None or exchange.finished or exchange.refusal is not None:
                self.client.abort()
                return False
            return await self._fail(Broken("took too long", Reason.TIMEOUT))
        except Exception as error:  # noqa: BLE001 - a request has its lines, whatever breaks
            log_failure("a request", error)
            exchange = find_exchange(self.flow)
            if exchange is not None:
                exchange.refuse(Reason.INTERNAL_ERROR)
            return await self._fail(Broken("failed"))
        finally:
            outbox.requests -= 1

    async def _carry(self) -> bool:
        flow, hooks = self.flow, self.express.hooks
        await hooks.call("requestheaders", flow)
        try:
            if self._is_settled():
                return await self._answer()
            if self.head.expects_continue:
                flow.request.headers.pop("expect", None)
                if self.head.minor_version:  # RFC 9110 10.1.1: HTTP/1.0 knows no such answer
                    self.client.write(_CONTINUE)
            if not flow.request.stream:
                flow.request.content = await self.body.read_whole()
                await hooks.call("request", flow)
                if self._is_settled():
                    return await self._answer()
            return await self._forward()
        except (ChunkError, ConnectionError, Broken) as error:
            return await self._fail(error)
        finally:
            flow.live = False
            self._abort_upstream()

    def exchange(self) -> Exchange:
        """What the stages remember of this request; Broken where they refused it."""
        exchange = self._exchange or find_exchange(self.flow)
        if exchange is None:
            raise Broken("no stage has seen it", Reason.INTERNAL_ERROR)
        if exchange.refusal is not None:
            raise Broken("refused", exchange.refusal)
        self._exchange = exchange
        return exchange

    def _is_settled(self) -> bool:
        """Whether a hook answered the flow or killed it."""
        return self.flow.response is not None or not self.flow.live

    async def _answer(self) -> bool:
        """Send what an addon answered."""
        flow, hooks = self.flow, self.express.hooks
        exchange = find_exchange(flow)
        refused = exchange is not None and exchange.refusal is not None
        if flow.response is None or (refused and not self.body.done):
            # A refused body is not waited for; see what Conversation does with the rest of it.
            raise Broken("killed")
        await hooks.call("request", flow)
        await hooks.call("responseheaders", flow)
        await hooks.call("response", flow)
        going_on = self.keep_alive and self.body.done
        head_only = self.head.method == "HEAD"
        write_response(self.client, flow.response, close=not going_on, head_only=head_only)
        return going_on

    # -- forwarding

    async def _forward(self) -> bool:
        going_on = await self._relay(Upload(self))
        if not self.body.done:
            # Closed before it has written all, a client's connection would be reset, and with it
            # the answer lost that it had no time to read.
            self._abort_upstream()
            await self.body.skip()
        return going_on and self.body.done

    async def _relay(self, upload: Upload) -> bool:
        upstream, fresh = await self._connect()
        try:
            await upload.begin(upstream)
            try:
                return await Download(self, upload, upstream).run()
            except NoResponseError as error:
                # A kept connection was closed meanwhile: asking twice is safe, and somebody waits.
                if fresh or not upload.is_whole or not self._may_repeat():
                    raise Broken(str(error)) from None
            upstream.stream.abort()
            upstream, _ = await self._connect(reuse=False)
            upload.repeat(upstream)
            return await Download(self, upload, upstream).run()
        except BadResponseError as error:
            raise Broken(str(error)) from None
        finally:
            await upload.end()

    def _abort_upstream(self) -> None:
        """Close its connection, unless that was given back."""
        if self.upstream is not None:
            self.upstream.stream.abort()

    def _may_repeat(self) -> bool:
        return not self.client.ended and self.head.method in _REPEATABLE

    async def _connect(self, *, reuse: bool = True) -> tuple[Upstream, bool]:
        """A connection to the decided destination, and whether it is a new one."""
        request, express = self.flow.request, self.express
        exchange = self.exchange()
        policy = exchange.policy
        host, port = request.data.host, request.data.port
        plan = exchange.dial_plan
        if policy is None or plan is None or (plan.host, plan.port) != (host, port):
            raise Broken("no decided destination", Reason.INTERNAL_ERROR)
        named = exchange.verdict.connection if exchange.verdict else None
        destination = Destination(
            "https" if request.data.scheme == b"https" else "http",
            host,
            port,
            named.name if named and exchange.swapped else None,
            policy.upstream.ca_pem,
            policy.digest,
        )
        upstream = express.pool.take(destination) if reuse else None
        is_new = False
        if upstream is None:
            client = (exchange.session.address, self.client)
            seconds = policy.limits.connect_timeout_seconds
            exchange.is_connecting = True
            given = await express.pool.admit(destination, client, seconds, reuse=reuse)
            if isinstance(given, Slot):
                with given:
                    upstream = await self._open(destination, plan, policy, given)
                is_new = True
            else:
                upstream = self.upstream = given
                self.exchange()  # nobody has refused it while it waited
            exchange.is_connecting = False
            self.client.moved_at = asyncio.get_running_loop().time()  # it could not, until now
        self.upstream = upstream
        self.flow.server_conn = upstream.server
        return upstream, is_new

    async def _open(
        self, destination: Destination, plan: DialPlan, policy: Policy, slot: Slot
    ) -> Upstream:
        hooks = self.express.hooks
        server = Server(
            address=(destination.host, destination.port), tls=destination.scheme == "https"
        )
        data = ServerConnectionHookData(server=server, client=self.conversation.client)
        await hooks.call("server_connect", data)
        reason = None
        if (problem := _error_of(server)) is None:
            try:
                upstream = await self.express.pool.open(destination, plan, policy, server, slot)
            except UpstreamError as error:
                problem, reason = str(error), error.reason
        if problem is not None:
            server.error = problem
            await hooks.call("server_connect_error", data)
            raise Broken(problem, reason)
        self.upstream = upstream
        upstream.on_closed = partial(self.express.tell_disconnected, data)
        await hooks.call("server_connected", data)
        if (problem := _error_of(server)) is not None:
            raise Broken(problem)
        return upstream

    # -- failing

    async def _fail(self, error: Exception) -> bool:
        """Record how it broke off, and answer with the denial where nothing was answered yet."""
        flow = self.flow
        exchange = find_exchange(flow)
        text = str(error)
        if exchange is not None:
            if isinstance(error, ChunkError):
                exchange.refuse(Reason.BAD_HEADER)
            elif self.client.ended:
                text = CLIENT_DISCONNECTED
            elif isinstance(error, Broken) and error.reason is not None:
                exchange.refuse(error.reason, describe_failure(text))
        if not self.answering:
            flow.response = None  # nobody saw it: what is recorded is the answer that follows
        flow.error = Error(text)
        await self.express.hooks.call("error", flow)
        if exchange is None or exchange.refusal is None or self.answering:
            self.client.abort()
            return False
        if exchange.refusal.status is None:
            return False
        await self.conversation.answer_and_drain(
            denial_of(exchange), more_follows=not self.body.done
        )
        return False


def _error_of(server: Server) -> str | None:
    """What a hook has set in the meantime."""
    return server.error
