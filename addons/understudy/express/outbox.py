"""When bytes leave: together with those of other requests, or at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.express.stream import Stream


class Outbox:
    """What the connections of one event loop have written in this turn, sent when it ends.

    Waking a peer that sleeps costs more than all else about a small write. Where several requests
    are in progress their bytes leave together, and their peers stay awake. A request on its own
    waits for nobody.
    """

    def __init__(self) -> None:
        self.requests = 0
        """How many requests are in progress."""
        self.woken = 0
        """How many have something to read, in this turn, and have not gone on yet."""
        self._waiting: list[Stream] = []

    def hold(self, stream: Stream) -> None:
        """Send what the stream has written once all that were woken wait again; soon anyway."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.send)
        self._waiting.append(stream)

    def send(self) -> None:
        """Send everything."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.send()
