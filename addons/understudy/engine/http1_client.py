"""The client's HTTP/1 connection on mitmproxy's engine: heads checked, bodies bounded, own answers.

Stands in for mitmproxy's Http1Server; see :mod:`understudy.engine.http1`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from understudy.audit.request_id import new_request_id
from understudy.engine.chunks import ChunkedBody
from understudy.engine.deadline import Deadline
from understudy.engine.writes import MergedWrites
from understudy.policy.model import Limits
from understudy.reasons import Reason
from understudy.stages.record import denial_of
from understudy.stages.refusal import Denial
from understudy.wire.head import parse_head
from understudy.wire.scan import HeadScan, Incomplete, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http._events import HttpEvent

    from understudy.policy.model import Policy
    from understudy.stages.exchange import Session, Sessions
    from understudy.stages.record import Recorder

MAX_DRAINED_BYTES = 1 << 28
"""After a refusal the rest of a body is read and dropped, so that the client reads the answer
instead of a reset; a client that goes on for longer than this is cut off."""
MAX_DRAIN_SECONDS = 30.0
LINGER_SECONDS = 2.0
"""A client that sends nothing for this long after a refusal has read the answer."""
MAX_PIPELINED_BYTES = 1 << 20
"""mitmproxy reads on while a request waits for its answer; who sends this much means no good."""
_INFORMATIONAL_END = 200
_NO_POLICY = Limits()


class ClientSide(_http1.Http1Server):
    """The client's connection: strict heads in, our own answers out."""

    _sessions: Sessions
    _recorder: Recorder
    _policy: Callable[[], Policy | None]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._drained = 0
        self._drain_until = 0.0
        self._writes = MergedWrites(self.conn)
        self._head_deadline = Deadline()
        self._linger_deadline = Deadline()
        self._scan = HeadScan(inside_tls=self.conn.tls_established)
        self._body_bytes = 0

    @property
    def _session(self) -> Session:
        return self._sessions.of(self.context.client)

    @property
    def _limits(self) -> Limits:
        policy = self._policy()
        return policy.limits if policy else _NO_POLICY

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            if (yield from self._head_deadline.wake(event)):
                yield from self._reject(Reason.TIMEOUT, "the request head did not arrive in time")
            if (yield from self._linger_deadline.wake(event)):
                yield from self._close()
            return
        yield from super()._handle_event(event)

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Check the bytes of the head before mitmproxy's parser sees them."""
        if isinstance(event, events.ConnectionClosed):
            if bytes(self.buf):
                self._recorder.reject(
                    self._session, Reason.CLIENT_CLOSED, "in the middle of a request head"
                )
            yield commands.CloseConnection(self.conn)
            return
        if not self.buf:
            return
        received = self.buf._data  # noqa: SLF001 - no copy of all of it for every byte that comes
        found = self._scan.look(received, self._limits.max_header_bytes)
        if isinstance(found, Rejected):
            yield from self._reject(found.reason, found.detail)
        elif isinstance(found, Incomplete):
            yield from self._wait_for_head()
        else:
            self._scan = HeadScan(inside_tls=self.conn.tls_established)
            yield from self._accept_head(bytes(received[:found]), event)

    def _wait_for_head(self) -> CommandGenerator[None]:
        if not self._head_deadline.is_running():
            yield from self._head_deadline.start(self._limits.head_timeout_seconds)

    def _accept_head(
        self, head_bytes: bytes, event: events.ConnectionEvent
    ) -> CommandGenerator[None]:
        self._head_deadline.stop()
        self._body_bytes = 0
        session = self._session
        head = parse_head(head_bytes, self._limits.max_headers)
        session.head = head
        if head is None:
            yield from self._reject(Reason.NOT_HTTP, None)
            return
        body_at_hand = len(self.buf) - len(head_bytes)
        session.whole_request = body_at_hand >= (head.content_length or 0) and (
            head.content_length is not None or not head.has_body
        )
        session.whole_response = True  # what this proxy answers itself; an upstream may differ
        if head.refusal is None:
            # mitmproxy's own read_headers answers what it cannot read with a page of its own.
            try:
                self.request = http1.read_request_head(head_bytes[:-4].split(b"\r\n"))
                body_size = http1.expected_http_body_size(self.request)
            except ValueError:
                head = head._replace(refusal=Reason.BAD_TARGET)
            else:
                yield from self._pass_on(len(head_bytes), body_size, event)
                return
        denial = self._recorder.refuse_head(session, head, self._policy())
        yield from self._answer_and_drain(denial)

    def _pass_on(
        self, head_size: int, body_size: int | None, event: events.ConnectionEvent
    ) -> CommandGenerator[None]:
        assert isinstance(self.request, http.Request)
        rest = bytes(self.buf)[head_size:]
        self.buf = _http1.ReceiveBuffer()
        self.buf += rest
        yield ReceiveHttp(RequestHeaders(self.stream_id, self.request, body_size == 0))
        is_chunked = body_size is None
        self.body_reader = ChunkedBody() if is_chunked else _http1.make_body_reader(body_size)
        self.state = self.read_body
        yield from self.state(event)

    def _reject(self, reason: Reason, detail: str | None) -> CommandGenerator[None]:
        """Refuse bytes that never became a request; answer where the reason has a status."""
        session = self._session
        denial = Denial(reason, new_request_id())
        self._recorder.reject(session, reason, detail, denial.request_id)
        if reason.status is None:
            yield from self._close()
        else:
            session.whole_request = False
            yield from self._answer_and_drain(denial)

    def _close(self) -> CommandGenerator[None]:
        self.state = self.done
        yield commands.CloseConnection(self.conn)

    def _answer_and_drain(self, denial: Denial) -> CommandGenerator[None]:
        self.state = self.drain
        self.buf = _http1.ReceiveBuffer()
        yield commands.SendData(self.conn, denial.to_bytes())
        if self._session.whole_request:
            yield from self._close()
        else:
            self._drain_until = time.monotonic() + MAX_DRAIN_SECONDS
            yield from self._linger_deadline.start(LINGER_SECONDS)

    def drain(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Drop what the client still sends until it closes, or falls silent."""
        self._drained += len(self.buf)
        self.buf = _http1.ReceiveBuffer()
        over = self._drained > MAX_DRAINED_BYTES or time.monotonic() > self._drain_until
        if over or isinstance(event, events.ConnectionClosed):
            yield from self._close()
        else:
            yield from self._linger_deadline.start(LINGER_SECONDS)

    def wait(self, event: events.Event) -> CommandGenerator[None]:
        """Keep what comes behind a request, within bounds, until the request is answered."""
        if len(self.buf) > MAX_PIPELINED_BYTES:
            yield from self._abort(Reason.HEADER_TOO_LARGE)
            return
        exchange = self._session.exchange
        if isinstance(event, events.ConnectionClosed) and exchange is not None:
            # What fails because of that, a connection upstream say, is nobody else's fault.
            exchange.refuse(Reason.CLIENT_CLOSED)
        yield from super().wait(event)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """Pass the body on, within the limit."""
        limit = self._limits.max_request_body_bytes
        for command in super().read_body(event):
            if isinstance(command, commands.CloseConnection) and not self.request_done:
                # A body that cannot be read, or that ends too soon: not the upstream's fault.
                if not isinstance(event, events.ConnectionClosed):
                    yield from self._abort(Reason.BAD_HEADER)
                    return
                if self._session.exchange is not None:
                    self._session.exchange.refuse(Reason.CLIENT_CLOSED)
            if isinstance(command, ReceiveHttp) and isinstance(command.event, RequestData):
                self._body_bytes += len(command.event.data)
                if limit is not None and self._body_bytes > limit:
                    yield from self._abort(Reason.BODY_TOO_LARGE)
                    return
            yield command
            if self._was_refused():
                yield from self._abort(None)
                return

    def _was_refused(self) -> bool:
        """Whether a stage refused the request while its body streams."""
        exchange = self._session.exchange
        return (
            exchange is not None
            and exchange.forwarded
            and not exchange.finished
            and exchange.refusal is not None
        )

    def _abort(self, reason: Reason | None) -> CommandGenerator[None]:
        """Give up a request half-way: nothing more goes upstream, and its end is recorded."""
        exchange = self._session.exchange
        if exchange is not None and reason is not None:
            exchange.refuse(reason)
        yield ReceiveHttp(
            RequestProtocolError(self.stream_id, "aborted", ErrorCode.GENERIC_CLIENT_ERROR)
        )
        if self.state != self.drain and self.response is None and exchange is not None:
            yield from self._answer_and_drain(denial_of(exchange))
        elif self.state != self.drain:
            yield from self._close()

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """Write a response; an error is answered by the exchange's own denial."""
        session = self._sessions.find(self.context.client)
        if isinstance(event, ResponseHeaders):
            self._end_with(event)
        if not isinstance(event, ResponseProtocolError):
            more = session is not None and session.whole_response
            more = more and not isinstance(event, ResponseEndOfMessage) and not _is_interim(event)
            # In a tunnel these are another connection's bytes, and no end ever comes.
            more = more and self.state != self.passthrough
            yield from self._writes.merge(super().send(event), more_follows=more)
            if _is_interim(event):
                # mitmproxy takes it for the answer, after which a failure has none of its own.
                self.response = None
            return
        # One error is told of twice where the upstream's connection ends with the client's.
        has_answered = self.state in (self.drain, self.done)
        if has_answered or not self.conn.state & ConnectionState.CAN_WRITE:
            return
        yield from self._writes.flush()
        exchange = session.exchange if session else None
        refusal = exchange.refusal if exchange else None
        if session and exchange and refusal is not None and refusal.status and not self.response:
            session.whole_request = session.whole_request or self.request_done
            yield from self._answer_and_drain(denial_of(exchange))
        else:
            yield from self._close()

    def _end_with(self, event: ResponseHeaders) -> None:
        """Let the connection end with this answer where the client has asked for that.

        mitmproxy looks for that in the request, whose headers for this hop are off by now.
        """
        head = self._session.head
        is_last = head is not None and not head.keeps_alive and head.method != "CONNECT"
        if is_last and not _is_interim(event):
            event.response.headers["connection"] = "close"


def _is_interim(event: HttpEvent) -> bool:
    """Whether the client waits for this, a 100 for instance, before anything follows."""
    return isinstance(event, ResponseHeaders) and event.response.status_code < _INFORMATIONAL_END
