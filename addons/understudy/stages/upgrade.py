"""A request becomes a WebSocket only where its rule says so and the upstream means it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of
from understudy.wire.fields import OF_THE_HOP, without
from understudy.wire.frames import FrameError
from understudy.wire.websocket import WebSocket, accepts

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy import http

    from understudy.stages.exchange import Exchange

SWITCHING_PROTOCOLS = 101

_EXTENSIONS = frozenset({b"sec-websocket-extensions"})
_NOT_ITS_OWN = OF_THE_HOP | {b"upgrade"}
_UPGRADE = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


class Upgrade:
    """Puts a decided handshake together again, and lets nothing but its true answer through.

    Without this stage (on an engine that carries no WebSockets) every upgrade stays taken off.
    """

    name = "understudy-upgrade"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Give the handshake back what identity has taken off; offer no extensions."""
        exchange = exchange_of(flow)
        verdict, key = exchange.verdict, exchange.head.websocket_key
        if exchange.refusal is not None or verdict is None or key is None:
            return
        outline = exchange.outline
        if not verdict.websocket or exchange.routed is not None or outline is None:
            return
        exchange.websocket = WebSocket(key)
        kept = without(outline.fields, _EXTENSIONS)
        exchange.outline = outline.changed((*kept, *_UPGRADE), outline.target)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Refuse a 101 that is not what was asked for; have every frame of the client's checked."""
        exchange, response = exchange_of(flow), flow.response
        if exchange.refusal is not None or response is None:
            return
        if response.status_code != SWITCHING_PROTOCOLS:
            exchange.websocket = None
            return
        websocket = exchange.websocket
        if websocket is None or not accepts(websocket.key, response.headers.fields):
            detail = "wrongly accepted a WebSocket" if websocket else "switched protocols unasked"
            exchange.refuse(Reason.UPSTREAM_FAILED, f"the upstream {detail}")
            if flow.killable:
                flow.kill()
            return
        kept = without(response.headers.fields, _NOT_ITS_OWN)
        response.headers.fields = (*kept, *_UPGRADE)
        sent = cast("Callable[[bytes], list[bytes]]", flow.request.stream)
        flow.request.stream = _check_frames(exchange, websocket, sent)


def _check_frames(
    exchange: Exchange, websocket: WebSocket, sent: Callable[[bytes], list[bytes]]
) -> Callable[[bytes], list[bytes]]:
    def check(data: bytes) -> list[bytes]:
        try:
            websocket.client.feed(data)
        except FrameError:
            exchange.refuse(Reason.BAD_HEADER, "the client sent what is no WebSocket frame")
        return sent(data)

    return check
