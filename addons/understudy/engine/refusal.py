"""A refusal is answered at once, not after the body that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.stages.exchange import find_exchange

if TYPE_CHECKING:
    from mitmproxy import http


class ImmediateRefusal:
    """Ends refused requests that have a body.

    mitmproxy reads the whole body into memory before it sends a response that a hook has set. A
    killed flow goes the short way: the client's connection writes the denial itself (see
    :class:`understudy.engine.http1_client.ClientSide`) and drops what is still sent.
    """

    name = "understudy-immediate-refusal"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Kill a refused flow whose body is still to come."""
        exchange = find_exchange(flow)
        if exchange is None or exchange.refusal is None:
            return
        if exchange.head.has_body and flow.killable:
            flow.response = None
            flow.kill()
