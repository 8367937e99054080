"""An upstream's responses, parsed by llhttp in its strict mode."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httptools

from understudy.express.messages import make_response
from understudy.wire.fields import BODYLESS, FRAMING

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.express.stream import Stream

MAX_HEAD_BYTES = 1 << 18
"""The most that may come without a byte of a body in it: heads, and later trailers."""
_REASON = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_FINAL_STATUS = 200
_SWITCHING_PROTOCOLS = 101


class BadResponseError(OSError):
    """Bytes that are no response, or one that ends too early."""


class NoResponseError(BadResponseError):
    """The upstream closed before a single byte came."""


class ResponseReader:
    """Reads one response of one request; a connection that carries more is not used again."""

    def __init__(self, stream: Stream, *, head_request: bool) -> None:
        self._stream = stream
        self._head_request = head_request
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._has_head = False
        self._interim: list[http.Response] = []
        self._body: list[bytes] = []
        self._done = False
        self._fed = 0
        self._idle_bytes = 0
        self._overrun = False
        self._status = 0
        self._until_close = False
        self._keep_alive = False

    async def read_head(self, deadline: float | None = None) -> http.Response:
        """The next head: interim ones (1xx, without 100) first, the final one last.

        Raises BadResponseError, NoResponseError, and TimeoutError at the ``deadline``, which is on
        the loop's clock.
        """
        while not self._has_head and not self._interim:
            if not self._stream.received and not await self._stream.wait(deadline):
                error = BadResponseError if self._fed else NoResponseError
                raise error("server closed connection")
            self._feed()
        if self._interim:
            return self._interim.pop(0)
        return self._make_response()

    async def read_body(self) -> bytes:
        """The next bytes of the body; empty at its end."""
        while not self._body and not self._done:
            if not self._stream.received and not await self._stream.wait():
                if not self._until_close or self._stream.cut:
                    raise BadResponseError("peer closed connection without sending complete body")
                self._done = True
                break
            self._feed()
        data = b"".join(self._body)
        self._body.clear()
        return data

    def close(self) -> None:
        """Let go of the parser, which holds this reader: no cycle is left for the collector."""
        del self._parser

    def has_more(self) -> bool:
        """Whether some of the body is at hand, or its end is."""
        return bool(self._body) or self._done

    def is_whole(self) -> bool:
        """Whether the rest of the body has arrived already."""
        return self._done

    def may_reuse(self) -> bool:
        """Whether the connection can take another request after this response."""
        return self._done and self._keep_alive and not self._overrun and not self._until_close

    def _feed(self) -> None:
        data = self._stream.take()
        if self._done:
            self._overrun = self._overrun or bool(data)
            return
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
            self._idle_bytes = 0 if self._body else self._idle_bytes + len(data)
            if self._idle_bytes > MAX_HEAD_BYTES:
                # The parser keeps every header, and the beginning of one without an end.
                raise BadResponseError("response head too large")
        except httptools.HttpParserUpgrade as upgrade:
            if self._status != _SWITCHING_PROTOCOLS:
                raise BadResponseError("the upstream switched protocols") from None
            # What follows the head is no HTTP any more.
            self._stream.received[:0] = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            self._overrun = True
            if not self.is_whole():
                raise BadResponseError(f"Cannot parse HTTP response: {error}") from None

    # -- llhttp's callbacks

    def on_message_begin(self) -> None:
        """Notice bytes behind the end of the response."""
        if self._done:
            self._overrun = True

    def on_status(self, reason: bytes) -> None:
        """Keep the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        if not self._has_head:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Tell interim heads from the final one."""
        if self._done:
            return
        self._status = self._parser.get_status_code()
        if self._status < _FINAL_STATUS and self._status != _SWITCHING_PROTOCOLS:
            if self._status != 100:  # noqa: PLR2004 - answered by this proxy itself
                self._interim.append(self._make_response())
            self._headers, self._reason = [], b""
            return
        self._has_head = True
        self._keep_alive = self._parser.should_keep_alive()
        framing = {name.lower() for name, _ in self._headers} & FRAMING
        bodyless = self._head_request or self._status in BODYLESS
        self._until_close = not bodyless and not framing
        if bodyless and framing:
            # A server that sends the body all the same would answer the next request with it.
            self._keep_alive = False
        if bodyless or self._status == _SWITCHING_PROTOCOLS:
            self._done = True

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        if not self._done:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Note the end."""
        if self._has_head and not self._until_close:
            self._done = True

    def _make_response(self) -> http.Response:
        if self._status < 100:  # noqa: PLR2004 - RFC 9110 15
            raise BadResponseError("an impossible status from server")
        if not _REASON.fullmatch(self._reason):
            raise BadResponseError("a control character in the reason from server")
        return make_response(self._status, self._reason, tuple(self._headers))
