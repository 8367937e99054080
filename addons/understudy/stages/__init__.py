"""The steps of a request, each one mitmproxy addon, in the one order that :func:`stages` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.stages.decision import Decision
from understudy.stages.dial import Dial
from understudy.stages.gateway import Gateway
from understudy.stages.identity import Identity
from understudy.stages.record import Record, Recorder
from understudy.stages.scrub import Scrub
from understudy.stages.swap import Swap
from understudy.stages.tunnel import Tunnel
from understudy.stages.upgrade import Upgrade

if TYPE_CHECKING:
    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.credentials.resolver import Resolver
    from understudy.engine.dialer import Dialer
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Sessions


def stages(
    *,
    sessions: Sessions,
    policies: PolicyHolder,
    recorder: Recorder,
    placeholders: PlaceholderBook,
    resolver: Resolver,
    dialer: Dialer,
    caller_token: str | None,
    carries_websockets: bool,
) -> list[object]:
    """Every stage, in the order in which a request passes them."""
    return [
        Tunnel(sessions, policies, recorder, caller_token),
        Identity(sessions, policies, caller_token),
        Decision(placeholders),
        Gateway(),
        Swap(resolver, placeholders),
        *([Upgrade()] if carries_websockets else []),
        Dial(sessions, dialer),
        Scrub(resolver, placeholders),
        Record(recorder),
    ]
