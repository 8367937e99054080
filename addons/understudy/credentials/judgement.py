"""Everything about a request that can be decided from its head and the policy. Pure.

Agents send the same head again and again, with another Content-Length. What was judged once is
remembered for as long as policy and placeholders are the same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from understudy.credentials.judge import Plan, inspect, judge
from understudy.policy.direct import decide_request
from understudy.reasons import Reason
from understudy.wire.identity import overrides_method, overrides_path

if TYPE_CHECKING:
    from understudy.credentials.carriers import Head
    from understudy.credentials.judge import Presented
    from understudy.credentials.placeholders import Placeholders
    from understudy.policy.model import Connection, Policy, Target, Verdict


class Judgement(NamedTuple):
    """The verdict on a request and on the credential that came along."""

    presented: Presented
    bound: tuple[Connection, ...]
    verdict: Verdict
    plan: Plan | None
    refusal: Reason | None
    detail: str | None = None


def judge_request(
    policy: Policy, placeholders: Placeholders, target: Target, head: Head
) -> Judgement:
    """Judge a request whose identity is established; ``head`` without headers of one hop."""
    presented = inspect(head, placeholders, policy.connections)
    bound = policy.bound_to(target.host, target.port)
    verdict = decide_request(policy, target, presented.connection)
    if not verdict.allow:
        return Judgement(presented, bound, verdict, None, verdict.reason)
    via_gateway = verdict.connection is not None and verdict.connection.via_gateway
    if overrides_method(head.headers, head.target, target.method) and not via_gateway:
        # At a gateway they are refused with all else that steers it.
        detail = "a header or parameter asks for another method"
        return Judgement(presented, bound, verdict, None, Reason.BAD_METHOD, detail)
    if overrides_path(head.headers, head.target) and not via_gateway:
        detail = "a header asks for another path"
        return Judgement(presented, bound, verdict, None, Reason.PATH_NOT_CANONICAL, detail)
    plan = judge(presented, verdict=verdict, bound=bound)
    if not isinstance(plan, Reason):
        return Judgement(presented, bound, verdict, plan, None)
    at_gateway = policy.is_gateway(target.host, target.port)
    if policy.mode == "report" and plan.reportable and not at_gateway:
        # Nothing is swapped for a request that enforce mode would refuse.
        return Judgement(
            presented,
            bound,
            verdict._replace(reason=plan, connection=None, websocket=False),
            None,
            None,
        )
    return Judgement(presented, bound, verdict, None, plan)
