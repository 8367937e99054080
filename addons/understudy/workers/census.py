"""How many client connections all workers have, in all and from each address, in shared memory."""

from __future__ import annotations

import mmap

_ENTRY_BYTES = 4
_ADDRESSES = 1 << 16
"""Entries for addresses, by hash. Two that share one are counted together: never too few."""
_ROW = 1 + _ADDRESSES
"""A worker's entries: all its connections, then those by address."""


class Census:
    """The counts of all workers; made before they are forked."""

    def __init__(self, workers: int) -> None:
        # Zeros, and no memory until it is written to.
        self._memory = mmap.mmap(-1, workers * _ROW * _ENTRY_BYTES)
        self._rows = [
            memoryview(self._memory).cast("I")[number * _ROW : (number + 1) * _ROW]
            for number in range(workers)
        ]

    def seat(self, number: int) -> Seat:
        """The part of one worker, by its number from 0."""
        return Seat(self._rows, number)

    def total(self) -> int:
        """How many connections all workers have."""
        return sum(row[0] for row in self._rows)

    def forget(self, number: int) -> None:
        """A worker is dead, and so are its connections."""
        row_bytes = _ROW * _ENTRY_BYTES
        self._memory[number * row_bytes : (number + 1) * row_bytes] = bytes(row_bytes)


class Seat:
    """One worker's own counts, and the sight of all.

    A worker notes a connection before it asks how many there are. So two that take one at the
    same time may both see too many, and never both too few.
    """

    def __init__(self, rows: list[memoryview[int]], number: int) -> None:
        self._rows = rows
        self._own = rows[number]

    def come(self, address: str) -> None:
        """A connection from this address is open in this worker."""
        self._own[0] += 1
        self._own[_entry(address)] += 1

    def go(self, address: str) -> None:
        """One of them is closed."""
        self._own[0] -= 1
        self._own[_entry(address)] -= 1

    def total(self) -> int:
        """How many connections all workers have."""
        return sum(row[0] for row in self._rows)

    def total_from(self, address: str) -> int:
        """How many of them come from an address."""
        entry = _entry(address)
        return sum(row[entry] for row in self._rows)


def _entry(address: str) -> int:
    # Of one seed in all workers, as they are forks; of another in every run.
    return 1 + hash(address) % _ADDRESSES
