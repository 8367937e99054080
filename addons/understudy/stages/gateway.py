"""Stage 4: provider traffic goes to the declared gateway instead of the provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.gateways.apply import route
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of
from understudy.wire.identity import format_host

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.gateways.apply import Routed


class Gateway:
    """Rewrites destination, path and headers as the gateway's preset says."""

    name = "understudy-gateway"

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Route the request, or refuse what the gateway is not open for."""
        exchange = exchange_of(flow)
        policy, verdict = exchange.policy, exchange.verdict
        if exchange.refusal is not None or policy is None or verdict is None:
            return
        connection = verdict.connection
        if connection is None or not connection.via_gateway or connection.provider is None:
            return
        assert policy.gateway is not None
        head = exchange.head
        routed = route(
            policy.gateway,
            connection.provider,
            head.method,
            head.path,
            flow.request.headers.fields,
        )
        if isinstance(routed, Reason):
            exchange.refuse(routed)
            return
        exchange.routed = routed
        exchange.inspects_body = head.has_body and bool(routed.refuse_body_fields)
        _rewrite(flow.request, routed)


def _rewrite(request: http.Request, routed: Routed) -> None:
    request.data.host = routed.host
    request.data.port = routed.port
    request.data.scheme = routed.scheme.encode("ascii")
    request.data.path = routed.target
    request.headers["Host"] = format_host(routed.scheme, routed.host, routed.port)
    for name, value in routed.headers_to_set:
        request.headers[name] = value
