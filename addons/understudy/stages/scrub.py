"""Stage 7: a secret that an upstream reflects is a placeholder again before the agent sees it."""

from __future__ import annotations

import logging
from itertools import chain
from typing import TYPE_CHECKING

from understudy.credentials.messages import MessageScrubber
from understudy.credentials.scrub import Guarded, Scrubber, forms_of
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of
from understudy.stages.refusal import OWN_HEADERS
from understudy.stages.upgrade import SWITCHING_PROTOCOLS
from understudy.wire.coding import CodingError, decoder_of
from understudy.wire.fields import BODYLESS, FRAMING, OF_THE_HOP, split, without
from understudy.wire.frames import FrameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mitmproxy import http

    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.credentials.resolver import Resolver
    from understudy.policy.model import Connection
    from understudy.stages.exchange import Exchange
    from understudy.wire.coding import Decoder
    from understudy.wire.fields import Fields
    from understudy.wire.outline import Outline
    from understudy.wire.websocket import WebSocket

logger = logging.getLogger(__name__)

_FIRST_FINAL_STATUS = 200
_PARTIAL_CONTENT = 206
_ASKED_ANEW = frozenset({b"accept-encoding", b"range", b"if-range"})
_TRANSFER = frozenset({b"transfer-encoding"})
_NOT_IN_INTERIM = OF_THE_HOP | FRAMING
_CODINGS_AND_FRAMING = FRAMING | {b"content-encoding"}
_TRANSFER_CODINGS = frozenset({"", "identity", "chunked"})


class Scrub:
    """Asks for whole, plain responses where a secret may come back, and cleans them."""

    name = "understudy-scrub"

    def __init__(self, resolver: Resolver, placeholders: PlaceholderBook) -> None:
        self._resolver = resolver
        self._placeholders = placeholders

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Ask for a body that can be read as it streams; note the secrets of this moment."""
        exchange = exchange_of(flow)
        outline = exchange.outline
        if exchange.refusal is not None or not exchange.bound or outline is None:
            return
        # Now, because a secret may be replaced while the request that carries it is under way.
        guarded = self._guarded(exchange)
        exchange.outline, forms = outline.once(
            "scrub", guarded, lambda: (_ask_anew(outline), forms_of(guarded))
        )
        exchange.scrubber = Scrubber(forms)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Clean the head and set the body to be cleaned as it streams, or refuse the response."""
        exchange = exchange_of(flow)
        response = flow.response
        if exchange.refusal is not None or response is None:
            return
        if response.status_code == SWITCHING_PROTOCOLS:
            self._switch(flow, exchange, response)
            return
        if response.status_code < _FIRST_FINAL_STATUS:
            _refuse(flow, exchange, "the upstream's answer was not proper HTTP")
            return
        _clean_head(exchange, response)
        scrubber = exchange.scrubber
        if not scrubber:
            if not exchange.head.minor_version:
                # RFC 9112 6.1: an HTTP/1.0 client knows no chunks; its body ends when we close.
                response.headers.fields = without(response.headers.fields, _TRANSFER)
            return
        if exchange.head.method == "HEAD" or response.status_code in BODYLESS:
            return
        if response.status_code == _PARTIAL_CONTENT:
            # A secret that is cut in two by the parts would not be recognised in either.
            _refuse(flow, exchange, "the upstream sent part of a body unasked")
            return
        kept, framing = split(response.headers.fields, _CODINGS_AND_FRAMING)
        decoder = decoder_of(_values(framing, b"content-encoding"))
        transfer = _values(framing, b"transfer-encoding").strip().lower()
        if decoder is None or transfer not in _TRANSFER_CODINGS:
            _refuse(flow, exchange, "the upstream used an encoding not asked for")
            return
        _frame_as_stream(exchange, response, kept)
        response.stream = _clean_body(flow, scrubber, decoder)

    def _switch(self, flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
        if exchange.websocket is None:
            _refuse(flow, exchange, "the upstream switched protocols unasked")
            return
        _clean_head(exchange, response)
        response.stream = _clean_frames(flow, exchange.websocket)

    def _guarded(self, exchange: Exchange) -> tuple[Guarded, ...]:
        plan, policy, routed = exchange.plan, exchange.policy, exchange.routed
        decided = (plan.connection,) if plan is not None and plan.connection else ()
        # The gateway has the keys of other providers' connections too.
        there = policy.bound_to(routed.host, routed.port) if policy and routed else ()
        # Where connections share a secret, the first one's placeholder stands for it.
        return guard((*decided, *exchange.bound, *there), self._resolver, self._placeholders)


def guard(
    connections: Iterable[Connection], resolver: Resolver, placeholders: PlaceholderBook
) -> tuple[Guarded, ...]:
    """What may come back of these connections' secrets: those of now, and those of before."""
    guarded: dict[str, tuple[Guarded, ...]] = {}
    for connection in connections:
        name = connection.name
        placeholder = placeholders.current.get(name)
        if name not in guarded and placeholder is not None:
            known = resolver.known(connection)
            guarded[name] = tuple([Guarded(name, secret, placeholder) for secret in known])
    return tuple(chain.from_iterable(guarded.values()))


def _ask_anew(outline: Outline) -> Outline:
    kept = without(outline.fields, _ASKED_ANEW)
    return outline.changed((*kept, (b"Accept-Encoding", b"identity")), outline.target)


def clean_interim(exchange: Exchange, response: http.Response) -> None:
    """Clean an interim (1xx) response; framing, and what is said of the hop, it may not have."""
    _clean_head(exchange, response)
    response.headers.fields = without(response.headers.fields, _NOT_IN_INTERIM)


def _clean_head(exchange: Exchange, response: http.Response) -> None:
    """Take secrets out of a response's header fields and reason, and what only we may say."""
    fields = without(response.headers.fields, OWN_HEADERS)
    scrubber = exchange.scrubber
    if scrubber:
        fields = scrubber.scrub_fields(fields)
        response.data.reason = scrubber.scrub(response.data.reason)
    response.headers.fields = fields


def _refuse(
    flow: http.HTTPFlow,
    exchange: Exchange,
    detail: str | None,
    reason: Reason = Reason.UPSTREAM_FAILED,
) -> None:
    exchange.refuse(reason, detail)
    if flow.killable:
        flow.kill()


def _frame_as_stream(exchange: Exchange, response: http.Response, fields: Fields) -> None:
    """A cleaned body may have another length: chunked for HTTP/1.1, until close for 1.0."""
    if exchange.head.minor_version:
        fields = (*fields, (b"Transfer-Encoding", b"chunked"))
        response.data.http_version = b"HTTP/1.1"
    response.headers.fields = fields


def _values(fields: Fields, name: bytes) -> str:
    return b", ".join([value for found, value in fields if found.lower() == name]).decode("latin-1")


def _clean_body(
    flow: http.HTTPFlow, scrubber: Scrubber, decoder: Decoder
) -> Callable[[bytes], list[bytes]]:
    """A body filter that gives no empty piece, and nothing more once the exchange is refused."""
    exchange = exchange_of(flow)

    def clean(data: bytes) -> list[bytes]:
        if exchange.refusal is not None:
            return []
        pieces: list[bytes] = []
        try:
            if data:
                pieces += [scrubber.feed(plain) for plain in decoder.feed(data)]
            else:
                decoder.close()
                pieces.append(scrubber.close())
        except CodingError as error:
            # Broken off, not ended: the agent must not take what it has for the whole.
            _refuse(flow, exchange, str(error))
        except Exception as error:  # noqa: BLE001 - no hook is around this call to fail closed
            logger.error("cleaning a body failed with %s", type(error).__name__)  # noqa: TRY400 - no text of the exception
            _refuse(flow, exchange, None, Reason.INTERNAL_ERROR)
        return [piece for piece in pieces if piece]

    return clean


def _clean_frames(flow: http.HTTPFlow, websocket: WebSocket) -> Callable[[bytes], list[bytes]]:
    """The same for a WebSocket's frames; where no secret can come back, they are only checked."""
    exchange = exchange_of(flow)
    messages = MessageScrubber(exchange.scrubber, websocket.server) if exchange.scrubber else None

    def clean(data: bytes) -> list[bytes]:
        if exchange.refusal is not None:
            return []
        try:
            if messages is not None:
                data = messages.feed(data)
            else:
                websocket.server.feed(data)
        except FrameError:
            exchange.refuse(Reason.UPSTREAM_FAILED, "the upstream sent what is no WebSocket frame")
            return []
        except Exception as error:  # noqa: BLE001 - no hook is around this call to fail closed
            logger.error("cleaning a message failed with %s", type(error).__name__)  # noqa: TRY400 - no text of the exception
            exchange.refuse(Reason.INTERNAL_ERROR)
            return []
        return [data] if data else []

    return clean
