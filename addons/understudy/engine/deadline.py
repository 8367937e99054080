"""A deadline inside mitmproxy's layers: one pending timer a connection, however many requests."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy.proxy import commands

if TYPE_CHECKING:
    from mitmproxy.proxy import events
    from mitmproxy.proxy.layer import CommandGenerator


class Deadline:
    """Something that must happen within a number of seconds of :meth:`start`.

    mitmproxy's wake-ups cannot be cancelled; so one that comes early asks for the rest.
    """

    def __init__(self) -> None:
        self._due: float | None = None
        self._timer: commands.RequestWakeup | None = None

    def start(self, seconds: float) -> CommandGenerator[None]:
        """Begin to wait; forgets an earlier start."""
        self._due = time.monotonic() + seconds
        if self._timer is None:
            self._timer = commands.RequestWakeup(seconds)
            yield self._timer

    def is_running(self) -> bool:
        """Whether something is waited for."""
        return self._due is not None

    def stop(self) -> None:
        """What was waited for has happened."""
        self._due = None

    def wake(self, event: events.Wakeup) -> CommandGenerator[bool]:
        """Take a wake-up; true where it is ours and the deadline has passed."""
        if event.command is not self._timer:
            return False
        self._timer = None
        if self._due is None:
            return False
        remaining = self._due - time.monotonic()
        if remaining > 0:
            self._timer = commands.RequestWakeup(remaining)
            yield self._timer
            return False
        self._due = None
        return True
