"""Stage 3: the policy's verdict, and the verdict on the credential that came along."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from understudy.credentials.judge import Head, inspect, judge
from understudy.policy.direct import decide_request
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of
from understudy.wire.identity import overrides_method

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.policy.model import Policy, Target
    from understudy.stages.exchange import Exchange


class Decision:
    """Asks the policy; decides everything that needs no secret and no socket."""

    name = "understudy-decision"

    def __init__(self, placeholders: PlaceholderBook) -> None:
        self._placeholders = placeholders

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Set the verdict and the credential plan, or refuse."""
        exchange = exchange_of(flow)
        if exchange.refusal is not None or exchange.target is None:
            return
        if exchange.policy is None:
            exchange.refuse(Reason.POLICY_MISSING)
            return
        self._decide(exchange, exchange.policy, exchange.target, flow.request)
        body_limit = exchange.policy.limits.max_request_body_bytes
        if body_limit is not None and (exchange.head.content_length or 0) > body_limit:
            exchange.refuse(Reason.BODY_TOO_LARGE)

    def _decide(
        self, exchange: Exchange, policy: Policy, target: Target, request: http.Request
    ) -> None:
        head = Head(request.headers.fields, exchange.head.path)
        presented = inspect(head, self._placeholders.current, policy.connections)
        exchange.presented = presented
        exchange.bound = policy.bound_to(target.host, target.port)
        verdict = decide_request(policy, target, presented.connection)
        exchange.verdict = verdict
        if not verdict.allow:
            exchange.refuse(verdict.reason)
            return
        via_gateway = verdict.connection is not None and verdict.connection.via_gateway
        if overrides_method(head.headers, target.method) and not via_gateway:
            # At a gateway they are refused with all else that steers it.
            exchange.refuse(Reason.BAD_METHOD, "a header asks for another method")
            return
        plan = judge(presented, verdict=verdict, bound=exchange.bound)
        if not isinstance(plan, Reason):
            exchange.plan = plan
        elif policy.mode == "report" and plan.reportable:
            # Nothing is swapped for a request that enforce mode would refuse.
            exchange.verdict = replace(verdict, reason=plan, connection=None, websocket=False)
        else:
            exchange.refuse(plan)
