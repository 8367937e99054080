"""One audit log for several processes: they take turns, and a line is still written whole."""

from __future__ import annotations

import fcntl
import mmap
import tempfile
from pathlib import Path
from typing import Protocol

from understudy.audit.sinks import Sink


class ResumableSink(Sink, Protocol):
    """A sink that can go on where another process has written."""

    @property
    def torn(self) -> bool:
        """Whether the destination ends in the middle of a line, as far as this sink knows."""

    @property
    def unit_bytes(self) -> int:
        """A line of up to this many bytes is written whole or not at all, also by a kill."""

    @property
    def stalled(self) -> bool:
        """Whether the last line could not be written because nobody read."""

    def resume(self, *, broken: bool, stalled: bool) -> None:
        """Go on after the last writer: it may have torn its line, it may have waited in vain."""


class Turns:
    """Whose turn it is to write. Made once, before the processes that share it are forked.

    A record lock belongs to a process and ends with it, so one that is killed in its turn holds
    up nobody; shared memory then says that its line may be torn.
    """

    def __init__(self, folder: Path) -> None:
        # Held as long as the process lives. The folder is only where this user may write.
        self._lock, name = tempfile.mkstemp(prefix=".audit.", dir=folder)
        Path(name).unlink()
        self._shared = mmap.mmap(-1, 2)

    def take(self) -> None:
        """Wait until nobody else writes."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX)

    def give(self) -> None:
        """Let the next one write."""
        fcntl.lockf(self._lock, fcntl.LOCK_UN)

    @property
    def broken(self) -> bool:
        """Whether the last turn may have ended within a line."""
        return self._shared[0] == 1

    @broken.setter
    def broken(self, broken: bool) -> None:
        self._shared[0] = 1 if broken else 0

    @property
    def stalled(self) -> bool:
        """Whether nobody read when the last line was to be written."""
        return self._shared[1] == 1

    @stalled.setter
    def stalled(self, stalled: bool) -> None:
        self._shared[1] = 1 if stalled else 0


class SharedSink:
    """This process's way to a destination that others write to as well; each has its own."""

    def __init__(self, sink: ResumableSink, turns: Turns) -> None:
        self._sink = sink
        self._turns = turns

    @property
    def name(self) -> str:
        """The kind of sink, as the metric shows it."""
        return self._sink.name

    def start(self) -> None:
        """Open the destination; raises AuditUnavailable."""
        self._sink.start()

    def write(self, line: bytes) -> None:
        """Write one line in this process's turn; raises AuditUnavailable."""
        turns = self._turns
        turns.take()
        try:
            self._sink.resume(broken=turns.broken, stalled=turns.stalled)
            turns.broken = len(line) > self._sink.unit_bytes
            try:
                self._sink.write(line)
            finally:
                turns.broken = self._sink.torn
                turns.stalled = self._sink.stalled
        finally:
            turns.give()

    def check(self) -> None:
        """See whether a line could be written now; raises AuditUnavailable."""
        self._sink.check()

    def reopen(self) -> None:
        """Look at the destination anew before the next line."""
        self._sink.reopen()

    def close(self) -> None:
        """Let go of the destination."""
        self._sink.close()
