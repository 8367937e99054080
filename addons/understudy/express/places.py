"""How many connections one upstream server has, and which requests wait for one.

A connection that is open, or being opened, holds a Slot of its server's Place. What sets one free
gives it to whoever is next in the same step: nobody waits where there is room, and nobody who came
later goes first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from understudy.express.broken import Broken
from understudy.express.turns import Turns
from understudy.reasons import Reason

if TYPE_CHECKING:
    from understudy.express.pool import Destination, Upstream
    from understudy.express.stream import Stream

_TOO_MANY = "too many connections to the upstream"


class Slot:
    """The right to one connection.

    As a context manager it is given up at the end, unless a connection has taken it over by then.
    """

    __slots__ = ("_is_bound", "_is_free", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self._is_bound = self._is_free = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_bound:
            self.free()

    def bind(self, stream: Stream) -> None:
        """Leave it to a connection, whose end sets it free."""
        self._is_bound = True
        stream.on_lost = self.free
        if stream.failed:
            self.free()

    def free(self) -> None:
        """Give it up; nothing happens a second time."""
        if not self._is_free:
            self._is_free = True
            self.place.leave()


class Waiter:
    """One request that waits for its turn."""

    __slots__ = ("_client", "_destination", "_place", "given")

    def __init__(self, place: Place, client: str, destination: Destination | None) -> None:
        self._place = place
        self._client = client
        self._destination = destination
        self.given: asyncio.Future[Slot | Upstream]
        self.given = asyncio.get_running_loop().create_future()

    def suits(self, upstream: Upstream) -> bool:
        """Whether a connection that was used before is what it waits for."""
        return upstream.destination == self._destination

    def give(self, what: Slot | Upstream) -> bool:
        """End its wait; false where that has ended already."""
        if self.given.done():
            return False
        self.given.set_result(what)
        return True

    def break_off(self, error: Exception) -> None:
        """End its wait with an error; nothing happens where it has ended already."""
        self.leave()
        if not self.given.done():
            self.given.set_exception(error)

    def leave(self) -> None:
        """Stand in line no more."""
        self._place.turns.leave(self._client, self)


class Place:
    """One upstream server, with at most ``cap`` connections."""

    def __init__(self, cap: int) -> None:
        self.open = 0
        """Connections that are there, in use or not, or being made."""
        self.turns: Turns[Waiter] = Turns()
        """Who waits. Only where there is no free slot, and no connection that nobody uses but such
        as are being closed."""
        self._cap = cap

    def set_cap(self, cap: int) -> None:
        """Allow so many from now on; those that are too many are closed as they are given back."""
        self._cap = cap
        self._admit()

    def is_empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not self.open and not self.turns

    def is_crowded(self) -> bool:
        """Whether a connection that nobody uses is one too many."""
        return bool(self.turns) or self.open > self._cap

    def enter(self) -> Slot | None:
        """A slot; None where one has to wait for it."""
        if self.open >= self._cap:
            return None
        self.open += 1
        return Slot(self)

    def leave(self) -> None:
        """Count one less, and let the next come."""
        self.open -= 1
        self._admit()

    def join(self, client: str, destination: Destination | None) -> Waiter:
        """Stand in line for a slot, or for a connection to ``destination`` that is given back."""
        waiter = Waiter(self, client, destination)
        self.turns.join(client, waiter)
        return waiter

    def hand_over(self, upstream: Upstream) -> bool:
        """Give a connection that was given back to the first in line who can use it."""
        while (waiter := self.turns.call(lambda waiter: waiter.suits(upstream))) is not None:
            if waiter.give(upstream):
                return True
        return False

    def _admit(self) -> None:
        while self.open < self._cap and (waiter := self.turns.call()) is not None:
            self.open += 1
            if not waiter.give(Slot(self)):
                self.open -= 1


async def await_turn(waiter: Waiter, stream: Stream, timeout_seconds: float) -> Slot | Upstream:
    """Wait as long as the client's ``stream`` is there.

    Raises Broken when time is up, ConnectionError when the client has gone. What is given to one
    that is cancelled in the same moment goes to the next.
    """
    if stream.ended:
        waiter.leave()
        raise ConnectionError(_TOO_MANY)
    late = Broken(_TOO_MANY, Reason.UPSTREAM_TIMEOUT)
    timer = asyncio.get_running_loop().call_later(timeout_seconds, waiter.break_off, late)
    stream.on_end = lambda: waiter.break_off(ConnectionError(_TOO_MANY))
    try:
        return await waiter.given
    except asyncio.CancelledError:
        waiter.leave()
        given = waiter.given
        if not given.cancelled() and given.exception() is None:
            _pass_on(given.result())
        raise
    finally:
        timer.cancel()
        stream.on_end = None


def _pass_on(given: Slot | Upstream) -> None:
    if isinstance(given, Slot):
        given.free()
    elif not given.slot.place.hand_over(given):
        given.close_soon()
