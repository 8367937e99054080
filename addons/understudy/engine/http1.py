"""Below the hooks: HTTP/1 connections that check heads, bound bodies and answer their own errors.

mitmproxy's HTTP/1 layers repair odd heads, hold headers of any size, crash on chunked trailers,
take an upstream's 1xx for the final response, and write an error page with their version and the
upstream's address. No hook runs in any of these cases, so they are handled here, in subclasses
that :func:`install` puts in their place. Each is pinned by a test against the locked version.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import mitmproxy.proxy.layers.http as http_layers
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from understudy.audit.events import new_request_id
from understudy.engine.deadline import Deadline
from understudy.engine.writes import MergedWrites
from understudy.reasons import Reason
from understudy.stages.record import denial_of
from understudy.stages.refusal import Denial
from understudy.stages.scrub import clean_head
from understudy.wire.head import Incomplete, Rejected, examine, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http._events import HttpEvent

    from understudy.policy.model import Limits, Policy
    from understudy.stages.exchange import Session, Sessions
    from understudy.stages.record import Recorder

MAX_DRAINED_BYTES = 1 << 28
"""After a refusal the rest of a body is read and dropped, so that the client reads the answer
instead of a reset; a client that goes on for longer than this is cut off."""
LINGER_SECONDS = 2.0
"""A client that sends nothing for this long after a refusal has read the answer."""
_HEAD_END = b"\r\n\r\n"
_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_INFORMATIONAL_END = 200


def install(sessions: Sessions, recorder: Recorder, policy: Callable[[], Policy | None]) -> None:
    """Make mitmproxy's HTTP layer build these connections from now on."""

    class BoundServer(ClientSide):
        _sessions = sessions
        _recorder = recorder
        _policy = staticmethod(policy)

    class BoundClient(UpstreamSide):
        _sessions = sessions
        _policy = staticmethod(policy)

    # Checks the type of every field of every message it makes: a twelfth of a request's time.
    http.MessageData.__post_init__ = lambda _: None  # type: ignore[method-assign] # the patch itself
    http_layers.Http1Server = BoundServer  # type: ignore[misc] # the patch itself
    http_layers.Http1Client = BoundClient  # type: ignore[misc] # the patch itself


class ClientSide(_http1.Http1Server):
    """The client's connection: strict heads in, our own answers out."""

    _sessions: Sessions
    _recorder: Recorder
    _policy: Callable[[], Policy | None]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._drained = 0
        self._writes = MergedWrites(self.conn)
        self._head_deadline = Deadline()
        self._linger_deadline = Deadline()
        self._body_bytes = 0

    @property
    def _session(self) -> Session:
        return self._sessions.of(self.context.client)

    @property
    def _limits(self) -> Limits | None:
        policy = self._policy()
        return policy.limits if policy else None

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
        raw = bytes(self.buf)
        if not raw:
            return
        found = examine(raw, self._limits.max_header_bytes if self._limits else 65536)
        if isinstance(found, Rejected):
            yield from self._reject(found.reason, found.detail)
        elif isinstance(found, Incomplete):
            yield from self._wait_for_head()
        else:
            yield from self._accept_head(raw[:found], event)

    def _wait_for_head(self) -> CommandGenerator[None]:
        if not self._head_deadline.is_running():
            seconds = self._limits.head_timeout_seconds if self._limits else 30.0
            yield from self._head_deadline.start(seconds)

    def _accept_head(
        self, head_bytes: bytes, event: events.ConnectionEvent
    ) -> CommandGenerator[None]:
        self._head_deadline.stop()
        self._body_bytes = 0
        session = self._session
        head = parse_head(head_bytes)
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
                self.request = http1.read_request_head(head_bytes[: -len(_HEAD_END)].split(b"\r\n"))
                body_size = http1.expected_http_body_size(self.request)
            except ValueError:
                head = replace(head, refusal=Reason.BAD_TARGET)
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
        self.body_reader = _http1.make_body_reader(body_size)
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
            yield from self._linger_deadline.start(LINGER_SECONDS)

    def drain(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Drop what the client still sends until it closes, or falls silent."""
        self._drained += len(self.buf)
        self.buf = _http1.ReceiveBuffer()
        if isinstance(event, events.ConnectionClosed) or self._drained > MAX_DRAINED_BYTES:
            yield from self._close()
        else:
            yield from self._linger_deadline.start(LINGER_SECONDS)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """Pass the body on, within the limit; trailers are refused."""
        limit = self._limits.max_request_body_bytes if self._limits else None
        try:
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
        except NotImplementedError:
            # mitmproxy's answer to trailers. They could carry fields that no stage has judged.
            yield from self._abort(Reason.BAD_HEADER)

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
        if not isinstance(event, ResponseProtocolError):
            more = session is not None and session.whole_response
            more = more and not isinstance(event, ResponseEndOfMessage) and not _is_interim(event)
            # In a tunnel these are another connection's bytes, and no end ever comes.
            more = more and self.state != self.passthrough
            yield from self._writes.merge(super().send(event), more_follows=more)
            return
        if not self.conn.state & ConnectionState.CAN_WRITE:
            return
        yield from self._writes.flush()
        exchange = session.exchange if session else None
        refusal = exchange.refusal if exchange else None
        if session and exchange and refusal is not None and refusal.status and not self.response:
            session.whole_request = session.whole_request or self.request_done
            yield from self._answer_and_drain(denial_of(exchange))
        else:
            yield from self._close()


class UpstreamSide(_http1.Http1Client):
    """The upstream's connection: interim responses are passed on, trailers dropped."""

    _sessions: Sessions
    _policy: Callable[[], Policy | None]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._writes = MergedWrites(self.conn)
        self._first_byte_deadline = Deadline()

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Wakeup):
            if (yield from self._first_byte_deadline.wake(event)):
                yield from self._time_out()
            return
        yield from super()._handle_event(event)

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """Write a request; from its end on, the response's head is waited for in bounds.

        A refusal found in the body ends the connection instead: the client may have sent all of
        it before the upstream was connected, so the reading side cannot stop what is on its way.
        """
        session = self._sessions.find(self.context.client)
        if isinstance(event, RequestData | RequestEndOfMessage) and self._was_refused():
            if self.conn.state is not ConnectionState.CLOSED:
                yield from self._fail("refused")
            return
        more = session is not None and session.whole_request
        more = more and isinstance(event, RequestHeaders | RequestData)
        yield from self._writes.merge(super().send(event), more_follows=more)
        policy = self._policy()
        if isinstance(event, RequestEndOfMessage) and policy is not None:
            yield from self._first_byte_deadline.start(policy.limits.first_byte_timeout_seconds)

    def _was_refused(self) -> bool:
        session = self._sessions.find(self.context.client)
        exchange = session.exchange if session else None
        return exchange is not None and exchange.refusal is not None

    def _time_out(self) -> CommandGenerator[None]:
        session = self._sessions.find(self.context.client)
        if session is not None and session.exchange is not None:
            session.exchange.refuse(Reason.UPSTREAM_TIMEOUT)
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, "timed out", ErrorCode.GENERIC_SERVER_ERROR)
        )

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Pass interim responses on, and read the final head within the header limit."""
        while isinstance(event, events.DataReceived) and self.request is not None:
            raw = bytes(self.buf)
            end = raw.find(_HEAD_END)
            if end < 0 and len(raw) > MAX_RESPONSE_HEAD_BYTES:
                yield from self._fail("response head too large")
                return
            interim = _read_interim(raw[:end]) if end >= 0 else None
            session = self._sessions.find(self.context.client)
            if interim is None:
                if end >= 0:
                    self._first_byte_deadline.stop()
                if session is not None:
                    session.whole_response = _holds_whole_body(raw, end)
                break
            if session is not None:
                session.whole_response = False
            self.buf = _http1.ReceiveBuffer()
            self.buf += raw[end + len(_HEAD_END) :]
            if session is not None and session.exchange is not None:
                clean_head(session.exchange, interim)
            if interim.status_code != _CONTINUE:
                # 100 was answered by this proxy itself when it accepted the request.
                assert self.stream_id is not None
                yield http_layers.SendHttp(
                    ResponseHeaders(self.stream_id, interim, end_stream=False),
                    self.context.client,
                )
        yield from super().read_headers(event)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """Pass the body on; trailers end it and are dropped."""
        try:
            for command in super().read_body(event):
                yield command
                if self._was_refused():
                    # A stage could not go on with the body.
                    if self.conn.state is not ConnectionState.CLOSED:
                        yield from self._fail("refused")
                    return
        except NotImplementedError:
            assert self.stream_id is not None
            yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))
            yield from self.mark_done(response=True)

    def _fail(self, message: str) -> CommandGenerator[None]:
        assert self.stream_id is not None
        yield commands.CloseConnection(self.conn)
        yield ReceiveHttp(
            ResponseProtocolError(self.stream_id, message, ErrorCode.GENERIC_SERVER_ERROR)
        )


MAX_RESPONSE_HEAD_BYTES = 1 << 18
"""An upstream's response head may be this large: four times what clients are allowed."""


_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


def _is_interim(event: HttpEvent) -> bool:
    """Whether the client waits for this, a 100 for instance, before anything follows."""
    return isinstance(event, ResponseHeaders) and event.response.status_code < _INFORMATIONAL_END


def _holds_whole_body(raw: bytes, end: int) -> bool:
    """Whether ``raw``, whose head ends at ``end``, has all of a body of known length."""
    length = _CONTENT_LENGTH.search(raw, 0, end + 2) if end >= 0 else None
    return length is not None and len(raw) - end - len(_HEAD_END) >= int(length[1])


def _read_interim(raw: bytes) -> http_layers.http.Response | None:
    """The 1xx response that ``raw`` holds (101 aside: it is final); None for any other."""
    start = raw.split(b" ", 2)
    if len(start) < 2 or start[1][:1] != b"1" or start[1][:3] == b"101":  # noqa: PLR2004 - version and status
        return None
    try:
        response = http1.read_response_head(raw.split(b"\r\n"))
    except (ValueError, IndexError):
        return None
    is_interim = _CONTINUE <= response.status_code < _INFORMATIONAL_END
    return response if is_interim and response.status_code != _SWITCHING_PROTOCOLS else None
