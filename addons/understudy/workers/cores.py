"""How many cores this process may use: what ``--workers auto`` means."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Control groups v2, as a container sees its own: ``QUOTA PERIOD``, in microseconds, or ``max``."""


def count_cores(quota_file: Path = CGROUP_QUOTA) -> int:
    """Give the cores that the process is allowed, a container's limit included; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text("ascii").split()
        # Rounded down: a worker that is stopped at the limit holds its connections up.
        allowed = min(allowed, int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no control groups, or no limit: "max"
    return max(1, allowed)
