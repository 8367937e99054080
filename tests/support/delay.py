"""Carries packets between two TUN devices, each a fixed time late, in order, without loss.

``python delay.py MILLISECONDS FD FD``: what netem does, where the kernel has none. Ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque

MAX_PACKET_BYTES = 1 << 16


class Lane:
    """One direction."""

    def __init__(self, source: int, target: int, seconds: float) -> None:
        self._source, self._target, self._seconds = source, target, seconds
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._take)

    def _take(self) -> None:
        packet = os.read(self._source, MAX_PACKET_BYTES)
        self._under_way.append((self._loop.time() + self._seconds, packet))
        if len(self._under_way) == 1:
            self._loop.call_at(self._under_way[0][0], self._deliver)

    def _deliver(self) -> None:
        now = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now:
            os.write(self._target, self._under_way.popleft()[1])
        if self._under_way:
            self._loop.call_at(self._under_way[0][0], self._deliver)


async def run(seconds: float, one: int, other: int) -> None:
    """Carry until standard input ends."""
    Lane(one, other, seconds)
    Lane(other, one, seconds)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(float(sys.argv[1]) / 1000, int(sys.argv[2]), int(sys.argv[3])))
