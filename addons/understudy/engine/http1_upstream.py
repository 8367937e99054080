"""The upstream's HTTP/1 connection on mitmproxy's engine: interim responses, trailers, bounds.

Stands in for mitmproxy's Http1Client; see :mod:`understudy.engine.http1`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import SendHttp, _http1
from mitmproxy.proxy.layers.http._base import ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from understudy.engine.deadline import Deadline
from understudy.engine.writes import MergedWrites
from understudy.reasons import Reason
from understudy.stages.scrub import clean_interim

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy import http
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http._events import HttpEvent

    from understudy.policy.model import Policy
    from understudy.stages.exchange import Sessions

MAX_RESPONSE_HEAD_BYTES = 1 << 18
"""An upstream's response head may be this large: four times what clients are allowed."""
_HEAD_END = b"\r\n\r\n"
# NUL, a bare CR or LF, a folded line: others read them in another way (RFC 9112 2.2, 5.2).
_ODD = re.compile(rb"\x00|\r(?!\n)|(?<!\r)\n|\n[ \t]")
_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_INFORMATIONAL_END = 200
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


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
            # The last byte of a half head may be the first half of a line's end.
            if _ODD.search(raw, 0, end + 2 if end >= 0 else len(raw) - raw.endswith(b"\r")):
                yield from self._fail("Cannot parse HTTP response")
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
            exchange = session.exchange if session is not None else None
            # 100 was answered by this proxy itself; HTTP/1.0 knows none of them (RFC 9110 15.2).
            if (
                exchange is not None
                and exchange.head.minor_version
                and (interim.status_code != _CONTINUE)
            ):
                clean_interim(exchange, interim)
                assert self.stream_id is not None
                yield SendHttp(
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


def _holds_whole_body(raw: bytes, end: int) -> bool:
    """Whether ``raw``, whose head ends at ``end``, has all of a body of known length."""
    length = _CONTENT_LENGTH.search(raw, 0, end + 2) if end >= 0 else None
    return length is not None and len(raw) - end - len(_HEAD_END) >= int(length[1])


def _read_interim(raw: bytes) -> http.Response | None:
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
