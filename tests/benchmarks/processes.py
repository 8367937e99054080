"""What a process and its children use, read from ``/proc``; and where they may run."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1024 * 1024


@dataclass(frozen=True)
class Memory:
    """Megabytes; shared pages count once for each process in ``rss``, once in all in ``pss``."""

    rss: float
    pss: float | None
    """None where the kernel does not let this user look."""


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    pids = [pid]
    for parent in pids:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            pids += map(int, children.read_text().split())
    return pids


def cpu_seconds(pid: int) -> float:
    """Processor time so far of the process and its descendants, ended ones included."""
    ticks = 0
    for member in tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Processor time so far of everything on the machine, time stolen by its host included."""
    user, nice, system, _, _, *rest = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> Memory:
    """Resident memory of the process and its descendants now."""
    rss = pss = 0
    readable = True
    for member in tree(pid):
        rss += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        try:
            pss += _kilobytes(Path(f"/proc/{member}/smaps_rollup").read_text(), "Pss:")
        except OSError:
            readable = False
    pages = os.sysconf("SC_PAGE_SIZE")
    return Memory(rss * pages / MEGABYTE, pss / 1024 if readable else None)


def _kilobytes(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name))


@contextmanager
def running_on(cores: set[int]) -> Iterator[None]:
    """What is started inside runs on these cores alone; an empty set leaves it free."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
