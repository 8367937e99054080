"""Which credential a request shows, whether it may, and what goes up in its place.

Pure: no I/O, no mitmproxy. The client chose every byte that is judged here; each rule exists to
keep one promise: a secret goes up only for its own placeholder, whole, in a carrier of its own
connection, to a host of that connection, and alone.
"""

from __future__ import annotations

import base64
import re
import string
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from understudy.credentials.carriers import (
    Carrier,
    Head,
    add_credential,
    find_slots,
    join_parameters,
    parameters,
    remove_slot,
    write_slot,
)
from understudy.credentials.names import (
    LOOKS_LIKE_A_KEY,
    cookies_in,
    credentials_in,
)
from understudy.reasons import Reason
from understudy.wire.fields import normal_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from understudy.credentials.carriers import Slot
    from understudy.credentials.placeholders import Placeholders
    from understudy.credentials.secret import Secret
    from understudy.policy.model import Connection, Verdict

__all__ = [
    "Head",
    "Plan",
    "Presented",
    "apply",
    "inspect",
    "judge",
]

_PERCENT_DECODINGS = 3
_BASIC = re.compile(rb"basic[ \t]+([^\n]+)", re.IGNORECASE)
_NOT_BASE64 = bytes(set(range(256)) - set(string.ascii_letters.encode()) - set(b"0123456789+/"))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LETTERS_OF_A_GROUP = 4
_BLANKS = bytes(range(0x21)) + b"\x7f"


class Sighting(NamedTuple):
    """One placeholder that stands whole in a carrier of its own connection."""

    connection: str
    carrier: Carrier
    slot: Slot


class Presented(NamedTuple):
    """What :func:`inspect` found in a head."""

    head: Head
    sightings: tuple[Sighting, ...] = ()
    """Placeholders in their places."""
    strays: frozenset[str] = frozenset()
    """Connections whose placeholder stands anywhere else, in any reading."""

    @property
    def connection(self) -> str | None:
        """The one connection whose placeholder stands whole in a carrier, or None."""
        names = {sighting.connection for sighting in self.sightings}
        return next(iter(names)) if len(names) == 1 else None


class Plan(NamedTuple):
    """What :func:`apply` does to a head."""

    connection: Connection | None
    carrier: Carrier | None
    """Where the placeholder stands (swap), or where the secret goes (inject)."""
    action: Literal["none", "swap", "inject", "strip"]
    remove_headers: tuple[tuple[bytes, bytes], ...] = ()
    """Headers of the client that stay behind, name and value as sent."""
    remove_queries: frozenset[bytes] = frozenset()
    """Query parameters that stay behind, by decoded name."""


def inspect(
    head: Head, placeholders: Placeholders, connections: Mapping[str, Connection]
) -> Presented:
    """Find every placeholder in ``head``: raw, percent-encoded, or inside Basic's base64."""
    readings = _readings(head)
    found = placeholders.find_all(readings)
    if not found:
        return Presented(head)
    rest = head
    sightings: list[Sighting] = []
    for name in found:
        connection = connections.get(name)
        needle = placeholders[name].encode("ascii")
        for carrier in connection.carriers if connection else ():
            # Blanked once seen, so that what is left over is out of place; from the end, so that
            # the spans before it stay true and the head is read once, however many there are.
            for slot in reversed(find_slots(carrier, rest)):
                if slot.value != needle:
                    continue
                sightings.append(Sighting(name, carrier, slot))
                if len(found) == 1 and readings.count(needle) == 1:
                    # It stands nowhere else, in no reading: the usual request.
                    return Presented(head, tuple(sightings))
                rest = write_slot(rest, carrier, slot, b"")
    strays = frozenset(placeholders.find_all(_readings(rest)))
    return Presented(head, tuple(sightings), strays)


def judge(
    presented: Presented, *, verdict: Verdict, bound: tuple[Connection, ...]
) -> Plan | Reason:
    """Decide on the credential of an allowed request: what to do with it, or why not.

    ``verdict`` is the policy's; ``bound`` are all connections whose credential belongs to the
    host. A request that only report mode lets through gets the plan that changes nothing.
    """
    if not verdict.allow:
        return verdict.reason
    if verdict.reason is not Reason.ALLOWED:
        return Plan(None, None, "none")
    shown = {sighting.connection for sighting in presented.sightings} | presented.strays
    if not shown <= {connection.name for connection in bound}:
        return Reason.PLACEHOLDER_WRONG_HOST
    if presented.strays:
        return Reason.PLACEHOLDER_MISPLACED
    if not bound:
        return Plan(None, None, "none")
    return _judge_on_bound_host(presented, verdict.connection, bound)


def apply(
    head: Head,
    plan: Plan,
    secret: Secret | None,
    *,
    placeholder: str | None,
    gateway_carrier: Carrier | None = None,
) -> Head:
    """Carry out ``plan``: the result holds at most one credential and no placeholder.

    ``gateway_carrier``: where the gateway wants its credential; what stands there is overwritten.
    Raises ValueError where the head is not the one that was judged, so that nothing goes up.
    """
    head = _without(head, plan)
    if plan.action in ("none", "strip"):
        return head
    if secret is None or plan.carrier is None:
        raise ValueError(f"to {plan.action} takes a secret and a carrier")
    value = secret.reveal().encode("ascii")
    carrier = gateway_carrier or plan.carrier
    if plan.action == "inject":
        return add_credential(_without_carrier(head, carrier), carrier, value)
    needle = (placeholder or "").encode("ascii")
    slot = _whole(plan.carrier, head, needle) if needle else None
    if slot is None:
        raise ValueError("the placeholder no longer stands where it was judged")
    if carrier == plan.carrier:
        head = write_slot(head, plan.carrier, slot, value)
    else:
        head = _without_carrier(remove_slot(head, slot), carrier)
        head = add_credential(head, carrier, value)
    if needle in _readings(head):
        raise ValueError("the placeholder stands in a second place")
    return head


def _judge_on_bound_host(
    presented: Presented, decided: Connection | None, bound: tuple[Connection, ...]
) -> Plan | Reason:
    sightings = presented.sightings
    if len(sightings) > 1:
        return Reason.AMBIGUOUS_CREDENTIAL
    others = remove_slot(presented.head, sightings[0].slot) if sightings else presented.head
    headers, queries = credentials_in(others, bound)
    has_others = bool(headers or queries)
    if sightings and has_others:
        return Reason.AMBIGUOUS_CREDENTIAL
    if decided is None or decided not in bound:
        # The rule names no connection of this host: nothing is swapped, and no key but the
        # bound one may go to a bound host.
        if sightings or has_others:
            return Reason.FOREIGN_CREDENTIAL
        return _unchanged(presented.head, None)
    if sightings and sightings[0].connection != decided.name:
        return Reason.FOREIGN_CREDENTIAL
    if decided.secret is None:
        removed = (*headers, *_cookies_of_the_agent(presented.head, decided))
        action: Literal["strip", "none"] = "strip" if removed or queries else "none"
        return Plan(decided, None, action, removed, frozenset(queries))
    if sightings:
        return _swap(presented.head, sightings[0], decided)
    if has_others:
        names = [normal_name(name) for name, _ in headers]
        if len(set(names)) < len(names) or len(set(queries)) < len(queries):
            return Reason.AMBIGUOUS_CREDENTIAL
        # The gateway's credential is always ours (an own key would reach its own account there).
        if decided.via_gateway or not decided.allow_foreign_credentials:
            return Reason.FOREIGN_CREDENTIAL
        return _unchanged(presented.head, decided)
    if decided.inject_always:
        removed = _cookies_of_the_agent(presented.head, decided)
        return Plan(decided, decided.carriers[0], "inject", removed)
    return _unchanged(presented.head, decided)


def _swap(head: Head, sighting: Sighting, decided: Connection) -> Plan | Reason:
    # A server might prefer the other half of Basic if it is a key as well.
    if LOOKS_LIKE_A_KEY.match(sighting.slot.other.strip(_BLANKS)):
        return Reason.AMBIGUOUS_CREDENTIAL
    return Plan(decided, sighting.carrier, "swap", _cookies_of_the_agent(head, decided))


def _unchanged(head: Head, decided: Connection | None) -> Plan:
    """No credential goes up; cookies, which may be one, stay behind."""
    removed = _cookies_of_the_agent(head, decided)
    return Plan(decided, None, "strip" if removed else "none", removed)


def _cookies_of_the_agent(
    head: Head, decided: Connection | None
) -> tuple[tuple[bytes, bytes], ...]:
    """The cookies that stay behind: all but where own credentials pass; a gateway gets none."""
    pass_on = decided is not None and decided.allow_foreign_credentials and not decided.via_gateway
    return () if pass_on else cookies_in(head)


def _whole(carrier: Carrier, head: Head, needle: bytes) -> Slot | None:
    return next((slot for slot in find_slots(carrier, head) if slot.value == needle), None)


def _without(head: Head, plan: Plan) -> Head:
    if plan.remove_headers:
        kept = tuple(field for field in head.headers if field not in plan.remove_headers)
        head = Head(kept, head.target)
    if plan.remove_queries:
        left = [p for p in parameters(head.target) if p.name not in plan.remove_queries]
        head = Head(head.headers, join_parameters(head.target, left))
    return head


def _without_carrier(head: Head, carrier: Carrier) -> Head:
    """``head`` with nothing in ``carrier``, well-formed or not."""
    if carrier.header is None:
        name = (carrier.name or "").encode("ascii")
        left = [p for p in parameters(head.target) if p.name != name]
        return Head(head.headers, join_parameters(head.target, left))
    own = normal_name(carrier.header)
    return Head(tuple(f for f in head.headers if normal_name(f[0]) != own), head.target)


def _readings(head: Head) -> bytes:
    """Everything that stands in ``head``, as sent and as servers decode it."""
    readings = [b"\n".join([head.target, *chain.from_iterable(head.headers)])]
    while len(readings) <= _PERCENT_DECODINGS and b"%" in readings[-1]:
        readings.append(unquote_to_bytes(readings[-1]))
    for text in tuple(readings):
        if b"basic" in text.lower():
            for match in _BASIC.finditer(text):
                readings.extend(_lenient_base64(match[1]))
    return b"\n".join(readings)


def _lenient_base64(token: bytes) -> Iterator[bytes]:
    """What forgiving servers may read in malformed base64; only to find placeholders in it.

    They leave out what is no letter of it, and may begin anywhere.
    """
    letters = token.translate(_URL_SAFE).translate(None, _NOT_BASE64)
    for start in range(_LETTERS_OF_A_GROUP):
        begun = letters[start:]
        if len(begun) % _LETTERS_OF_A_GROUP == 1:
            begun = begun[:-1]
        yield base64.b64decode(begun + b"=" * (-len(begun) % _LETTERS_OF_A_GROUP))
