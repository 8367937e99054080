"""Where audit lines go: standard output or a file.

A sink lives in four steps: make (no side effects), start, write, close. A line is written whole or
not at all; where the system tears one, the next write mends it first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

STDOUT = "-"
STDOUT_DESCRIPTOR = 1
CHECK_INTERVAL_SECONDS = 1.0
STALL_SECONDS = 1.0


class AuditUnavailable(Exception):  # noqa: N818 - named for the reason it becomes
    """The audit log cannot be written; the message says where and why."""


class Sink(Protocol):
    """What the audit log needs of a place to write to."""

    @property
    def name(self) -> str:
        """The kind of sink, as the metric shows it."""

    def start(self) -> None:
        """Open the destination; raises AuditUnavailable."""

    def write(self, line: bytes) -> None:
        """Write one line, ending in a newline, whole; raises AuditUnavailable."""

    def check(self) -> None:
        """See whether a line could be written now, writing none; raises AuditUnavailable."""

    def reopen(self) -> None:
        """Look at the destination anew before the next line: its path may have been renamed."""

    def close(self) -> None:
        """Let go of the destination; a closed sink may be started again."""


class StdoutSink:
    """Writes to standard output, past any buffer.

    Where a reader stops reading, the first line that finds the pipe full waits for a second; after
    that the audit log counts as unavailable, without waiting, until there is room again.
    """

    name = "stdout"

    def __init__(self, descriptor: int = STDOUT_DESCRIPTOR) -> None:
        self._descriptor = descriptor
        self.torn = False
        """Whether the line written last has no end."""
        self.unit_bytes = 0
        """A line of up to this many bytes is written whole or not at all, also by a kill."""
        self.stalled = False
        """Whether nobody read when the last line was to be written."""

    def start(self) -> None:
        """Check that the descriptor is open and read from; raises AuditUnavailable."""
        self._check(STALL_SECONDS)  # other workers may have filled it for a moment
        if fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise _unavailable("standard output", OSError(errno.EBADF, "it is closed"))
        if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            self.unit_bytes = select.PIPE_BUF  # POSIX, write, "Pipe"

    def check(self) -> None:
        """See whether anybody reads; raises AuditUnavailable."""
        self._check(0)

    def _check(self, patience_seconds: float) -> None:
        try:
            os.fstat(self._descriptor)
        except OSError as error:
            raise _unavailable("standard output", error) from error
        if (obstacle := _not_writable(self._descriptor, patience_seconds)) is not None:
            raise _unavailable("standard output", obstacle)

    def write(self, line: bytes) -> None:
        """Write one line; raises AuditUnavailable."""
        data = b"\n" + line if self.torn else line
        written, error = self._write_patiently(data)
        if written:
            self.torn = data[written - 1] != ord("\n")
        if error is not None:
            raise _unavailable("standard output", error)

    def _write_patiently(self, data: bytes) -> tuple[int, OSError | None]:
        # What is writable takes PIPE_BUF bytes without blocking (POSIX, write, "Pipe").
        written = 0
        while written < len(data):
            patience = 0 if self.stalled else STALL_SECONDS
            error = _not_writable(self._descriptor, patience)
            self.stalled = isinstance(error, BlockingIOError)
            if error is None:
                count, error = _write(self._descriptor, data[written : written + select.PIPE_BUF])
                written += count
            if error is not None:
                return written, error
        return written, None

    def resume(self, *, broken: bool, stalled: bool) -> None:
        """Go on after another process; what it left in the pipe cannot be looked at."""
        self.torn = broken
        self.stalled = stalled

    def reopen(self) -> None:
        """Do nothing: standard output has no path."""

    def close(self) -> None:
        """Do nothing: standard output belongs to the process."""


class FileSink:
    """Appends to a file of mode 0600, and follows its path when a log rotation renames it.

    The path is looked at once a second and on :meth:`reopen`; a line that went into a deleted
    file is written again, into a new one. A last line that an earlier crash
    left without its newline is ended first. Character devices are accepted; FIFOs are not, as
    writing to one without a reader would lose lines.
    """

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None
        self._checked_at = 0.0
        self.torn = False
        """Whether the file ends in the middle of a line."""
        self.unit_bytes = 0
        self.stalled = False
        self._just_opened = False
        self._counts_links = False
        """Whether the file system tells of a file that has been deleted."""

    def start(self) -> None:
        """Open the file, made if it is not there; raises AuditUnavailable."""
        try:
            self._open()
        except OSError as error:
            self.close()
            raise _unavailable(str(self._path), error) from error

    def write(self, line: bytes) -> None:
        """Append one line; raises AuditUnavailable, after which the next call opens the path."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_INTERVAL_SECONDS:
            self._follow(now)
        if self._descriptor is None:
            self.start()
        descriptor = self._descriptor
        assert descriptor is not None
        data = b"\n" + line if self.torn else line
        written, error = _write(descriptor, data)
        if written:
            self.torn = data[written - 1] != ord("\n")
        if error is not None:
            self._take_back(descriptor, written)
            self.close()
            raise _unavailable(str(self._path), error)
        if self._counts_links and os.fstat(descriptor).st_nlink == 0:
            # The file has been deleted, and the line with it.
            self.close()
            self.write(line)

    def check(self) -> None:
        """See whether the file can be opened and its disk has room; raises AuditUnavailable."""
        if self._descriptor is None:
            self.start()
        assert self._descriptor is not None
        regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if regular and os.fstatvfs(self._descriptor).f_bavail == 0:
            raise _unavailable(str(self._path), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def resume(self, *, broken: bool, stalled: bool) -> None:
        """Go on after another process; where a line may be torn, the file's end is looked at."""
        del stalled
        look = broken or self._just_opened  # when it was opened, another may have been writing
        self._just_opened = False
        self.torn = False
        if look and self._descriptor is not None:
            self.torn = _is_torn(self._descriptor, os.fstat(self._descriptor))

    def reopen(self) -> None:
        """Look at the path before the next line."""
        self._checked_at = 0.0

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        self._identity = None
        if descriptor is not None:
            # It is closed whatever is said; its number may be another file's the next moment.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _open(self) -> None:
        # Not blocking, or a FIFO without a reader would hold the process here.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(self._path, flags, 0o600)
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self._identity = (status.st_dev, status.st_ino)
        self._counts_links = status.st_nlink > 0
        self._checked_at = time.monotonic()
        if stat.S_ISCHR(status.st_mode):
            os.set_blocking(descriptor, True)
        elif not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file; use `-` for standard output")
        self.torn = _is_torn(descriptor, status)
        self._just_opened = True

    def _follow(self, now: float) -> None:
        """Drop the descriptor where the path has become another file, or none."""
        self._checked_at = now
        try:
            status = self._path.stat()
        except OSError:
            self.close()
            return
        if (status.st_dev, status.st_ino) != self._identity:
            self.close()

    def _take_back(self, descriptor: int, written: int) -> None:
        """Cut off the part of a line that was written before the disk was full."""
        try:
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            if written and os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, end - written)
        except OSError:
            pass  # a device, or a disk in trouble: opening it again sees what is there


SINKS: dict[str, Callable[[str], StdoutSink | FileSink]] = {
    "stdout": lambda _: StdoutSink(),
    "file": lambda destination: FileSink(Path(destination)),
}
"""Every kind of sink, by name."""


def make_sink(destination: str) -> StdoutSink | FileSink:
    """Give the sink for ``--audit``: ``-`` is standard output, anything else a file's path."""
    return SINKS["stdout" if destination == STDOUT else "file"](destination)


def _not_writable(descriptor: int, timeout_seconds: float) -> OSError | None:
    """Why nothing can be written to a pipe within the time; None where it can."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    events = poll.poll(timeout_seconds * 1000)
    if any(event & (select.POLLERR | select.POLLNVAL) for _, event in events):
        return OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    return None if events else BlockingIOError(errno.EAGAIN, "nobody reads it")


def _is_torn(descriptor: int, status: os.stat_result) -> bool:
    """Whether a file ends without a newline; what is no file has no end to look at."""
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    return os.pread(descriptor, 1, status.st_size - 1) != b"\n"


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Write all of ``data``, in one call where the system lets; give what was written."""
    written = 0
    while written < len(data):
        try:
            written += os.write(descriptor, data[written:] if written else data)
        except OSError as error:
            return written, error
    return written, None


def _unavailable(place: str, error: OSError) -> AuditUnavailable:
    return AuditUnavailable(f"{place}: the audit log cannot be written ({error.strerror}).")
