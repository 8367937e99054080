"""What the proxy's processes hold when nothing goes on, and whether that stays as it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.soak.stage import Stage

WARM_ROUNDS = 2
"""Rounds whose growth is caches that fill."""
ROUNDS = WARM_ROUNDS + 10
EDGE = 3
"""How many samples stand for the beginning, and for the end."""
HEAP_ALLOWANCE_KILOBYTES = 4 * 1024
"""Caches with a bound: the roots of a policy are 3 MB."""
RSS_ALLOWANCE_KILOBYTES = 48 * 1024
"""What the allocator keeps of peaks and does not give back; a leak shows in the two above."""
BLOCKS_A_REQUEST = 0.02
"""A leak leaves at least one piece of memory for each request of some kind; most are a twentieth
of all, or more."""
BLOCKS_ALLOWANCE = 5000
"""For each worker, as the next two: caches with a bound fill at their own pace."""
GAUGE_SECONDS = 20
SETTLE_TRIES = 10
SETTLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Gauges:
    """One sample, and how many requests there had been."""

    requests: int
    descriptors: int
    threads: int
    tasks: int
    blocks: int
    """Small pieces of memory that Python has given out, after a garbage collection."""
    heap_kilobytes: int
    """What is in use of the C library's memory: large objects, TLS. 0 where it does not tell."""
    rss_kilobytes: int


async def read_gauges(stage: Stage) -> Gauges:
    """Ask the proxy's processes how they are; the least of several samples while it settles."""
    best = await _read_once(stage)
    for _ in range(SETTLE_TRIES):
        await asyncio.sleep(SETTLE_SECONDS)
        now = await _read_once(stage)
        settled = (now.descriptors, now.threads, now.tasks) == (
            *(best.descriptors, best.threads, best.tasks),
        )
        best = replace(
            now,
            descriptors=min(now.descriptors, best.descriptors),
            threads=min(now.threads, best.threads),
            tasks=min(now.tasks, best.tasks),
        )
        if settled:
            break
    return best


async def _read_once(stage: Stage) -> Gauges:
    total: Counter[str] = Counter()
    for process in processes_of(stage.proxy.process.pid):
        file = stage.gauge_file.with_name(f"{stage.gauge_file.name}.{process}")
        file.unlink(missing_ok=True)
        os.kill(process, signal.SIGUSR1)
        async with asyncio.timeout(GAUGE_SECONDS):
            while not file.exists():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)
        total.update(json.loads(file.read_text()))
    return Gauges(requests=stage.ledger.requests, **total)


def processes_of(process: int) -> list[int]:
    """The process and all below it: workers are processes of their own."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(below for child in children for below in processes_of(int(child)))]


def judge_growth(samples: Sequence[Gauges], workers: int = 1) -> list[str]:
    """What did not stay flat after the warm-up, a sentence each."""
    steady = samples[WARM_ROUNDS:]
    first, last = steady[:EDGE], steady[-EDGE:]
    found = []
    for name in ("descriptors", "threads", "tasks"):
        before = max(getattr(sample, name) for sample in first)
        after = min(getattr(sample, name) for sample in last)
        if after > before:
            found.append(f"{name} grew from {before} to {after}")
    requests = last[-1].requests - first[0].requests
    blocks = last[-1].blocks - first[0].blocks
    if blocks > BLOCKS_ALLOWANCE * workers + BLOCKS_A_REQUEST * requests:
        found.append(f"{blocks} more blocks of memory are held after {requests} requests")
    for name, allowance in (
        ("heap_kilobytes", HEAP_ALLOWANCE_KILOBYTES),
        ("rss_kilobytes", RSS_ALLOWANCE_KILOBYTES),
    ):
        before_kb = statistics.median(getattr(sample, name) for sample in first)
        after_kb = statistics.median(getattr(sample, name) for sample in last)
        if after_kb - before_kb > allowance * workers:
            found.append(f"{name} grew from {before_kb:.0f} to {after_kb:.0f}")
    return found


def slope_kilobytes(samples: Sequence[Gauges], name: str) -> float:
    """Growth of a gauge for 100 000 requests after the warm-up, by least squares."""
    steady = samples[WARM_ROUNDS:]
    if steady[0].requests == steady[-1].requests:
        return 0.0
    line = statistics.linear_regression(
        [sample.requests for sample in steady], [getattr(sample, name) for sample in steady]
    )
    return line.slope * 100_000
