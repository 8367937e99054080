"""Stage 7: a secret that an upstream reflects is a placeholder again before the agent sees it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mitmproxy import http

from understudy.credentials.scrub import Scrubber, forms_of
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.credentials.resolver import Resolver
    from understudy.stages.exchange import Exchange

_BODYLESS = frozenset({204, 304})
_SWITCHING_PROTOCOLS = 101
_INFLATE_AT_ONCE_BYTES = 65536


class Scrub:
    """Asks for plain responses where a secret went up, and cleans what comes back."""

    name = "understudy-scrub"

    def __init__(self, resolver: Resolver, placeholders: PlaceholderBook) -> None:
        self._resolver = resolver
        self._placeholders = placeholders

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Ask for a body that can be read as it streams."""
        exchange = exchange_of(flow)
        if exchange.refusal is None and exchange.bound:
            flow.request.headers["Accept-Encoding"] = "identity"
            flow.request.headers.pop("Range", None)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Clean the headers and set the body to be cleaned as it streams."""
        exchange = exchange_of(flow)
        response = flow.response
        if exchange.refusal is not None or response is None:
            return
        if response.status_code == _SWITCHING_PROTOCOLS:
            exchange.refuse(Reason.UPSTREAM_FAILED, "the upstream switched protocols unasked")
            flow.kill()
            return
        scrubber = self._scrubber(exchange)
        if not scrubber:
            return
        response.headers = http.Headers(
            [(name, scrubber.scrub(value)) for name, value in response.headers.fields]
        )
        response.data.reason = scrubber.scrub(response.data.reason)
        if flow.request.method == "HEAD" or response.status_code in _BODYLESS:
            return
        decode = _decoder(response.headers.pop("Content-Encoding", "identity"))
        if decode is None:
            exchange.refuse(Reason.UPSTREAM_FAILED, "the upstream used an encoding not asked for")
            flow.kill()
            return
        _frame_as_stream(flow)
        response.stream = _clean(scrubber, decode)

    def _scrubber(self, exchange: Exchange) -> Scrubber:
        placeholders = self._placeholders.current
        pairs = []
        for connection in exchange.bound:
            secret = self._resolver.last_known(connection)
            placeholder = placeholders.get(connection.name)
            if secret is not None and placeholder is not None:
                pairs.append((secret, placeholder))
        return Scrubber(forms_of(tuple(pairs)))


def _frame_as_stream(flow: http.HTTPFlow) -> None:
    """A cleaned body may have another length: chunked for HTTP/1.1, until close for 1.0."""
    assert flow.response is not None
    headers = flow.response.headers
    headers.pop("Content-Length", None)
    headers.pop("Transfer-Encoding", None)
    if flow.request.is_http11:
        headers["Transfer-Encoding"] = "chunked"
        flow.response.http_version = "HTTP/1.1"


def _decoder(encoding: str) -> Callable[[bytes], list[bytes]] | None:
    """A bounded, streaming decoder of a Content-Encoding; None where there is none."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda data: [data]
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None
    inflater = zlib.decompressobj(wbits=47 if encoding != "deflate" else 15)

    def inflate(data: bytes) -> list[bytes]:
        pieces = []
        while data:
            pieces.append(inflater.decompress(data, _INFLATE_AT_ONCE_BYTES))
            data = inflater.unconsumed_tail
        return pieces

    return inflate


def _clean(
    scrubber: Scrubber, decode: Callable[[bytes], list[bytes]]
) -> Callable[[bytes], list[bytes]]:
    def clean(data: bytes) -> list[bytes]:
        pieces = [scrubber.feed(piece) for piece in decode(data)] if data else [scrubber.close()]
        return [piece for piece in pieces if piece]

    return clean
