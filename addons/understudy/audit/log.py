"""The audit log itself: one event in, one line out, or a refusal that stops the request."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from understudy.audit.line import encode
from understudy.audit.sinks import AuditUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from understudy.audit.sinks import Sink

__all__ = ["AuditLog", "AuditUnavailable", "Failure", "Result"]

type Failure = Literal["fail_closed", "best_effort"]
"""What a line that cannot be written means: nothing is forwarded, or the line is lost."""
type Result = Literal["written", "failed"]

RESULTS: tuple[Result, ...] = ("written", "failed")


class AuditLog:
    """Writes events to one sink; any thread may call it.

    ``fail_closed`` raises AuditUnavailable where a line cannot be written, ``best_effort`` counts
    it and goes on. Every write tries the sink anew, so either recovers without help. ``on_result``
    hears of each line; ``redact`` sees each line before it is written and may change its strings,
    never its length in lines.
    """

    def __init__(
        self,
        sink: Sink,
        failure: Failure = "fail_closed",
        on_result: Callable[[str, Result], None] | None = None,
        redact: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._sink = sink
        self._failure = failure
        self._on_result = on_result
        self._redact = redact
        self._lock = threading.Lock()
        self._healthy = True

    @property
    def healthy(self) -> bool:
        """Whether the next line can be written, as far as can be seen without writing it.

        Asked after a failure it looks again: where health decides about traffic, waiting for the
        next line would wait forever.
        """
        if self._healthy:
            return True
        try:
            with self._lock:
                self._sink.check()
        except AuditUnavailable:
            return False
        return True

    def start(self) -> None:
        """Open the sink; with ``fail_closed`` raises AuditUnavailable where that fails."""
        try:
            self._sink.start()
        except AuditUnavailable:
            self._healthy = False
            if self._failure == "fail_closed":
                raise

    def write(self, event: Mapping[str, object]) -> None:
        """Write one event; raises AuditUnavailable with ``fail_closed``."""
        line = encode(event)
        if self._redact is not None:
            line = self._redact(line)
        try:
            with self._lock:
                self._sink.write(line)
        except AuditUnavailable:
            self._report("failed")
            if self._failure == "fail_closed":
                raise
        else:
            self._report("written")

    def reopen(self) -> None:
        """Follow the file's path before the next line (SIGHUP, after a log rotation)."""
        with self._lock:
            self._sink.reopen()

    def close(self) -> None:
        """Let go of the sink."""
        with self._lock:
            self._sink.close()

    def _report(self, result: Result) -> None:
        self._healthy = result == "written"
        if self._on_result is not None:
            self._on_result(self._sink.name, result)
