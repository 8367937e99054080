"""The processes of a proxy with workers, as /proc shows them."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.proxy import START_SECONDS, Proxy


def children_of(process: int) -> list[int]:
    """The children of a process; none where it has ended."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split() if not is_zombie(int(child))]


def is_zombie(process: int) -> bool:
    """Whether a process has ended and nobody has been told yet."""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True


def nursery_of(proxy: Proxy) -> int:
    """The process that forks the workers."""
    (nursery,) = children_of(proxy.process.pid)
    return nursery


def workers_of(proxy: Proxy) -> list[int]:
    """The workers that live now."""
    return children_of(nursery_of(proxy))


def wait_for_workers(proxy: Proxy, count: int, *, without: set[int] | None = None) -> list[int]:
    """Wait until ``count`` workers live and the proxy is ready; ``without`` these processes."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        workers = workers_of(proxy)
        complete = len(workers) == count and not (without or set()) & set(workers)
        if complete and proxy.admin("/readyz")[0] == 200:
            return workers
        assert time.monotonic() < deadline, (workers, proxy.log, proxy.admin("/readyz"))
        time.sleep(0.01)


def wait_for_end(processes: list[int]) -> None:
    """Wait until none of these processes lives."""
    deadline = time.monotonic() + START_SECONDS
    while alive := [process for process in processes if not is_zombie(process)]:
        assert time.monotonic() < deadline, f"{alive} live"
        time.sleep(0.01)
