"""Judging requests that may be sent straight to the gateway: in the provider's terms. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.gateways.apply import provider_path
from understudy.policy.decide import decide
from understudy.policy.model import Verdict
from understudy.reasons import Reason

if TYPE_CHECKING:
    from understudy.policy.model import Policy, Target


def decide_request(policy: Policy, target: Target, presented: str | None) -> Verdict:
    """Return :func:`~understudy.policy.decide.decide`'s verdict on a request as it was sent.

    Sent straight to the gateway, its path is read as the provider's that the rule is about; a deny
    rule that is written for the path at the gateway holds all the same.
    """
    shaped = provider_shaped(policy, target, presented)
    if shaped != target:
        as_sent = decide(policy, target, presented)
        if as_sent.reason is Reason.DENIED_BY_RULE:
            return as_sent
    verdict = decide(policy, shaped, presented)
    connection = verdict.connection
    if (
        connection is None
        or not policy.is_gateway(target.host, target.port)
        or connection.name == presented
    ):
        return verdict
    # Without a placeholder the path was read for one provider and the rule may be another's.
    own = provider_shaped(policy, target, connection.name)
    if own == shaped:
        return verdict
    again = decide(policy, own, connection.name)
    if again.connection is None or again.connection is connection:
        return again
    return Verdict(allow=False, reason=Reason.PATH_NOT_ALLOWED)


def provider_shaped(policy: Policy, target: Target, presented: str | None) -> Target:
    """Return the target with the path that its provider's clients would send.

    The provider is that of the connection ``presented``; without one, the first whose API the
    path is. A target elsewhere, or a path of no provider, stays as it is.
    """
    gateway = policy.gateway
    if gateway is None or not policy.is_gateway(target.host, target.port):
        return target
    named = policy.connections.get(presented or "")
    for connection in [named] if named is not None else policy.connections.values():
        if connection.via_gateway and connection.provider is not None:
            path = provider_path(gateway, connection.provider, True, target.path)  # noqa: FBT003 - says that the host is the gateway
            if path is not None:
                return target._replace(path=path)
    return target
