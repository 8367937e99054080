"""Whose turn it is, where clients wait for something that there is not enough of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_PASSES = 4
"""So many times in a row may what is given go past the first, to one whom it suits better."""


class _Line[Waiter: Hashable]:
    """What one client waits for, in the order in which it came."""

    __slots__ = ("_passes", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}
        self._passes = 0

    def choose(self, suits: Callable[[Waiter], bool]) -> Waiter | None:
        for waiter in self.waiters:
            if suits(waiter):
                return waiter
            if self._passes >= MAX_PASSES:
                break
        return None

    def serve(self, waiter: Waiter) -> None:
        self._passes = 0 if waiter is next(iter(self.waiters)) else self._passes + 1
        del self.waiters[waiter]


class Turns[Waiter: Hashable]:
    """A queue that is fair: clients in turn, and first come, first served within each.

    A client that asks a thousand times has its next turn after every other client has had one.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line[Waiter]] = {}
        """The client whose turn is next stands first."""
        self._passes = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def join(self, client: str, waiter: Waiter) -> None:
        """Stand in line."""
        line = self._lines.get(client)
        if line is None:
            line = self._lines[client] = _Line()
        line.waiters[waiter] = None

    def leave(self, client: str, waiter: Waiter) -> None:
        """Wait no more; nothing happens where it does not."""
        line = self._lines.get(client)
        if line is not None:
            line.waiters.pop(waiter, None)
            if not line.waiters:
                del self._lines[client]

    def call(self, suits: Callable[[Waiter], bool] = lambda _: True) -> Waiter | None:
        """Take out the first in line, or the first whom it suits.

        None where there is none, and where who comes before was passed over too often.
        """
        for client, line in self._lines.items():
            waiter = line.choose(suits)
            if waiter is not None:
                self._passes = 0 if client == next(iter(self._lines)) else self._passes + 1
                line.serve(waiter)
                del self._lines[client]
                if line.waiters:
                    self._lines[client] = line  # the last of the clients now
                return waiter
            if self._passes >= MAX_PASSES:
                break
        return None
