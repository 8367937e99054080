"""What the proxy's process holds when nothing goes on, and whether that stays as it is."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.soak.stage import Stage

WARM_ROUNDS = 2
"""Rounds whose growth is caches that fill."""
ROUNDS = WARM_ROUNDS + 10
EDGE = 3
"""How many samples stand for the beginning, and for the end."""
HEAP_ALLOWANCE_KILOBYTES = 6 * 1024
"""Caches with a bound: the roots of a policy (3 MB), the forms of the last 64 secrets."""
RSS_ALLOWANCE_KILOBYTES = 48 * 1024
"""What the allocator keeps of peaks and does not give back; a leak shows in the two above."""
BLOCKS_A_REQUEST = 0.1
"""A leak leaves at least one piece of memory for each request of some frequent kind."""
BLOCKS_ALLOWANCE = 2000
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
    """Ask the proxy's process how it is; the least of several samples while it settles."""
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
    stage.gauge_file.unlink(missing_ok=True)
    stage.proxy.process.send_signal(signal.SIGUSR1)
    async with asyncio.timeout(20):
        while not stage.gauge_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    read = json.loads(stage.gauge_file.read_text())
    return Gauges(requests=stage.ledger.requests, **read)


def judge_growth(samples: Sequence[Gauges]) -> list[str]:
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
    if blocks > BLOCKS_ALLOWANCE + BLOCKS_A_REQUEST * requests:
        found.append(f"{blocks} more blocks of memory are held after {requests} requests")
    for name, allowance in (
        ("heap_kilobytes", HEAP_ALLOWANCE_KILOBYTES),
        ("rss_kilobytes", RSS_ALLOWANCE_KILOBYTES),
    ):
        before_kb = statistics.median(getattr(sample, name) for sample in first)
        after_kb = statistics.median(getattr(sample, name) for sample in last)
        if after_kb - before_kb > allowance:
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
