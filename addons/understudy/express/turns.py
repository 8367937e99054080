"""Whose turn it is, where clients wait for something that there is not enough of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_PASSES = 4
"""So many turns in a row may go past the first in line, to one that what is given suits better."""


class Turns[Waiter: Hashable]:
    """A queue that is fair: clients in turn, and first come, first served within each.

    A client that asks a thousand times has its next turn after every other client has had one.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[Waiter, None]] = {}
        """What waits for each client; the client whose turn is next stands first."""
        self._passes = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def join(self, client: str, waiter: Waiter) -> None:
        """Stand in line."""
        self._lines.setdefault(client, {})[waiter] = None

    def leave(self, client: str, waiter: Waiter) -> None:
        """Wait no more; nothing happens where it does not."""
        line = self._lines.get(client)
        if line is not None:
            line.pop(waiter, None)
            if not line:
                del self._lines[client]

    def call(self, suits: Callable[[Waiter], bool] | None = None) -> Waiter | None:
        """Take out the first in line, or the first whom it suits.

        None where there is none, and where the first in line was passed over too often.
        """
        for client, line in self._lines.items():
            for waiter in line:
                if suits is None or suits(waiter):
                    self._serve(client, waiter)
                    return waiter
                if self._passes >= MAX_PASSES:
                    return None
        return None

    def _serve(self, client: str, waiter: Waiter) -> None:
        first_line = next(iter(self._lines.values()))
        is_first = next(iter(first_line)) is waiter
        self._passes = 0 if is_first else self._passes + 1
        line = self._lines.pop(client)
        del line[waiter]
        if line:
            self._lines[client] = line  # the last of the clients now
