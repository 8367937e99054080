"""How many client connections are open in all workers together: one count a worker, all shared."""

from __future__ import annotations

import mmap

_ENTRY_BYTES = 8


class Census:
    """The counts of all workers, in memory that they share; made before they are forked."""

    def __init__(self, workers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, workers * _ENTRY_BYTES)).cast("Q")

    def seat(self, number: int) -> Seat:
        """The part of one worker, by its number from 0."""
        return Seat(self._counts, number)

    def total(self) -> int:
        """How many connections all workers have."""
        return sum(self._counts)

    def forget(self, number: int) -> None:
        """A worker is dead, and so are its connections."""
        self._counts[number] = 0


class Seat:
    """One worker's own count, and the sight of all.

    A worker tells its own before it asks for all. So two that take a connection at one time may
    both see too many, and never both too few.
    """

    def __init__(self, counts: memoryview[int], number: int) -> None:
        self._counts = counts
        self._number = number

    def tell(self, count: int) -> None:
        """Note how many connections this worker has."""
        self._counts[self._number] = count

    def total(self) -> int:
        """Add all workers up."""
        return sum(self._counts)
