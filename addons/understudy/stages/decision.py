"""Stage 3: the policy's verdict, and the verdict on the credential that came along."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.credentials.carriers import Head
from understudy.credentials.judgement import judge_request
from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.credentials.placeholders import PlaceholderBook


class Decision:
    """Asks the policy; decides everything that needs no secret and no socket."""

    name = "understudy-decision"

    def __init__(self, placeholders: PlaceholderBook) -> None:
        self._placeholders = placeholders

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Set the verdict and the credential plan, or refuse."""
        exchange = exchange_of(flow)
        policy, target, outline = exchange.policy, exchange.target, exchange.outline
        if exchange.refusal is not None or target is None or outline is None:
            return
        if policy is None:
            exchange.refuse(Reason.POLICY_MISSING)
            return
        placeholders = self._placeholders.current
        judgement = outline.once(
            "judge",
            (policy, placeholders, target),
            lambda: judge_request(
                policy, placeholders, target, Head(outline.fields, outline.target)
            ),
        )
        exchange.presented = judgement.presented
        exchange.bound = judgement.bound
        exchange.verdict = judgement.verdict
        exchange.plan = judgement.plan
        if judgement.refusal is not None:
            exchange.refuse(judgement.refusal, judgement.detail)
        body_limit = policy.limits.max_request_body_bytes
        if body_limit is not None and (exchange.head.content_length or 0) > body_limit:
            exchange.refuse(Reason.BODY_TOO_LARGE)
