"""The audit log itself: one event in, one line out, or a refusal that stops the request."""

from __future__ import annotations

import asyncio
import contextlib
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

MAX_BATCH_BYTES = 4096
"""Of lines written together: what a pipe takes whole (POSIX, PIPE_BUF)."""

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
        on_result: Callable[[str, Result, int], None] | None = None,
        redact: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._sink = sink
        self._failure = failure
        self._on_result = on_result
        self._redact = redact
        self._lock = threading.Lock()
        self._healthy = True
        self._waiting: list[bytes] = []
        """Lines that go out with the next one, or with this turn of the event loop."""
        self._waiting_bytes = 0

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
        except (AuditUnavailable, OSError):
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
        self._write(self.redact(encode(event)))

    def write_line(self, line: bytes) -> None:
        """Write one event that is encoded and redacted; as :meth:`write`."""
        self._write(line)

    def write_line_soon(self, line: bytes) -> None:
        """Write an event that nothing waits for, together with the next one; raises nothing.

        It is written before any later event, and when this turn of the event loop ends. Only for
        events without which the log is still complete, as a process that is killed may take them.
        The line is redacted, or holds nothing that a client wrote.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._waiting_bytes + len(line) > MAX_BATCH_BYTES // 2:
            self._flush()
        self._waiting.append(line)
        self._waiting_bytes += len(line)

    def _flush(self) -> None:
        # Nothing waits for these lines; a sink that fails shows in its metric.
        with contextlib.suppress(AuditUnavailable):
            self._write(None)

    def redact(self, line: bytes) -> bytes:
        """The line as it may be written."""
        return line if self._redact is None else self._redact(line)

    def _write(self, line: bytes | None) -> None:
        """Write what waits, and then ``line``."""
        with self._lock:
            if line is not None and not self._waiting:
                self._write_batch(line, 1)
                return
            lines, self._waiting = self._waiting, []
            waiting_bytes, self._waiting_bytes = self._waiting_bytes, 0
            if line is not None:
                if waiting_bytes + len(line) > MAX_BATCH_BYTES:
                    with contextlib.suppress(AuditUnavailable):
                        self._write_batch(b"".join(lines), len(lines))
                    lines = []
                lines.append(line)
            if lines:
                self._write_batch(b"".join(lines), len(lines))

    def _write_batch(self, batch: bytes, lines: int) -> None:
        try:
            self._sink.write(batch)
        except Exception as error:  # whatever went wrong, the line may not be there
            self._report("failed", lines)
            if self._failure == "fail_closed":
                if isinstance(error, AuditUnavailable):
                    raise
                raise AuditUnavailable(f"writing failed with {type(error).__name__}") from None
        else:
            self._report("written", lines)

    def reopen(self) -> None:
        """Follow the file's path before the next line (SIGHUP, after a log rotation)."""
        with self._lock:
            self._sink.reopen()

    def close(self) -> None:
        """Write what waits, and let go of the sink."""
        self._flush()
        with self._lock:
            self._sink.close()

    def _report(self, result: Result, lines: int) -> None:
        self._healthy = result == "written"
        if self._on_result is not None:
            self._on_result(self._sink.name, result, lines)
