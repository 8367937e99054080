"""The two lines that every allowed request leaves, written without their dicts.

They say what :func:`understudy.audit.line.encode` makes of the events, in a fraction of the time:
what repeats from request to request is encoded once. Any other line is rare enough for the usual
way.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from understudy.audit import events
from understudy.audit.line import encode, escape, members
from understudy.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.stages.exchange import Exchange

_BEGIN = f'{{"{events.FIELD_SCHEMA}":"{events.SCHEMA}","{events.FIELD_TIME}":"'
_DECIDED = f'","{events.FIELD_EVENT}":"{events.REQUEST_DECIDED}","{events.FIELD_REQUEST_ID}":"'
_FINISHED = f'","{events.FIELD_EVENT}":"{events.REQUEST_FINISHED}","{events.FIELD_REQUEST_ID}":"'
_OF_EVERY_REQUEST = frozenset(
    {events.FIELD_SCHEMA, events.FIELD_TIME, events.FIELD_EVENT, events.FIELD_REQUEST_ID}
)


def decided_line(exchange: Exchange, redact: Callable[[bytes], bytes]) -> bytes:
    """The line of :func:`understudy.audit.events.request_decided`, redacted.

    What ``redact`` changes may depend on the policy, and on nothing that outlives it.
    """
    outline, verdict = exchange.outline, exchange.verdict
    if (
        outline is None
        or not outline.lasts
        or verdict is None
        or verdict.reason is not Reason.ALLOWED
        or exchange.refusal is not None
        or exchange.detail is not None
    ):
        return redact(encode(events.request_decided(exchange)))
    basis = (exchange.policy, verdict, exchange.target, exchange.routed, exchange.swapped)
    to_client, behind = outline.once("decided", basis, lambda: _repeating(exchange, redact))
    return (
        f"{_BEGIN}{events.now()}{_DECIDED}{exchange.request_id}"
        f'",{to_client},"{events.FIELD_CLIENT}":{{"{events.FIELD_ADDRESS}":'
        f"{escape(exchange.session.address)}}},{behind}}}\n"
    ).encode("ascii")


def finished_line(
    exchange: Exchange, *, status: int | None, reason: Reason | None, now: float
) -> bytes:
    """The line of :func:`understudy.audit.events.request_finished`."""
    scrubber = exchange.scrubber
    if (
        status is None
        or reason is not None
        or exchange.detail is not None
        or not exchange.first_byte_at
        or (scrubber is not None and scrubber.found)
    ):
        return encode(events.request_finished(exchange, status=status, reason=reason, now=now))
    started = exchange.started
    return (
        f"{_BEGIN}{events.now()}{_FINISHED}{exchange.request_id}"
        f'","{events.FIELD_STATUS}":{status}'
        f',"{events.FIELD_BYTES_SENT}":{exchange.bytes_sent}'
        f',"{events.FIELD_BYTES_RECEIVED}":{exchange.bytes_received}'
        f',"{events.FIELD_DURATION_MS}":{_milliseconds(now - started)}'
        f',"{events.FIELD_FIRST_BYTE_MS}":'
        f"{_milliseconds(exchange.first_byte_at - started)}"
        f',"{events.FIELD_OVERHEAD_MS}":'
        f"{_milliseconds(exchange.decided_at - started)}}}\n"
    ).encode("ascii")


def _milliseconds(seconds: float) -> str:
    # Zeros at the end may stay: to round and then to find the shortest digits takes three times
    # as long.
    return f"{seconds * 1000:.3f}"


def _repeating(exchange: Exchange, redact: Callable[[bytes], bytes]) -> tuple[str, str]:
    """What stands between the request id and the client, and behind the client."""
    event = events.request_decided(exchange)
    rest = {name: value for name, value in event.items() if name not in _OF_EVERY_REQUEST}
    before = dict(takewhile(lambda member: member[0] != events.FIELD_CLIENT, rest.items()))
    behind = {
        name: value
        for name, value in rest.items()
        if name not in before and name != events.FIELD_CLIENT
    }
    to_client, behind_client = (redact(members(part).encode()) for part in (before, behind))
    return to_client.decode(), behind_client.decode()
