"""Stage 4: provider traffic goes to the declared gateway instead of the provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import http

from understudy.gateways.apply import refuse_body, route
from understudy.gateways.scan import FieldScanner
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of
from understudy.wire.fields import normal_name
from understudy.wire.identity import format_host

if TYPE_CHECKING:
    from understudy.gateways.apply import Routed
    from understudy.policy.model import Gateway as GatewayOfPolicy
    from understudy.policy.model import Policy, Target
    from understudy.stages.exchange import Exchange
    from understudy.wire.outline import Outline

MAX_KEPT_BODY_BYTES = 1 << 20
"""A body up to this size is looked at before the decision; a larger one while it streams."""


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
        self._route(flow, exchange, policy, connection.provider)

    def _route(
        self, flow: http.HTTPFlow, exchange: Exchange, policy: Policy, provider: str
    ) -> None:
        gateway, target, head = policy.gateway, exchange.target, exchange.head
        outline = exchange.outline
        assert gateway is not None
        assert target is not None
        assert outline is not None
        found = outline.once(
            "route", (policy, provider, target), lambda: _lead(outline, gateway, provider, target)
        )
        if isinstance(found, Reason):
            exchange.refuse(found)
            return
        routed, exchange.outline = found
        exchange.routed = routed
        if head.has_body and routed.refuse_body_fields:
            if head.content_length is not None and head.content_length <= MAX_KEPT_BODY_BYTES:
                exchange.inspects_body = True
            else:
                exchange.scanner = FieldScanner(
                    routed.refuse_body_fields, is_form=routed.body_is_form
                )
        request = flow.request
        request.data.host, request.data.port = routed.host, routed.port
        request.data.scheme = routed.scheme.encode("ascii")

    def request(self, flow: http.HTTPFlow) -> None:
        """Look for refused fields in a body that was kept back for that."""
        exchange = exchange_of(flow)
        if exchange.refusal is None and exchange.inspects_body and exchange.routed is not None:
            routed, body = exchange.routed, flow.request.raw_content or b""
            if refuse_body(routed.refuse_body_fields, body, is_form=routed.body_is_form):
                exchange.refuse(Reason.GATEWAY_OVERRIDE_DENIED)


def _lead(
    outline: Outline, gateway: GatewayOfPolicy, provider: str, target: Target
) -> tuple[Routed, Outline] | Reason:
    """Where the request goes, and its head as the gateway wants it."""
    routed = route(
        gateway,
        provider,
        target.method,
        outline.target,
        outline.fields,
        host_is_gateway=(target.host, target.port) == (gateway.host, gateway.port),
    )
    if isinstance(routed, Reason):
        return routed
    replaced = {normal_name(name.encode("ascii")) for name, _ in routed.headers_to_set}
    headers = http.Headers(
        [
            field
            for field in outline.fields
            if field[0] not in routed.headers_to_drop and normal_name(field[0]) not in replaced
        ]
    )
    headers["Host"] = format_host(routed.scheme, routed.host, routed.port)
    for name, value in routed.headers_to_set:
        headers[name] = value
    return routed, outline.changed(headers.fields, routed.target)
