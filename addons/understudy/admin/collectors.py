"""Series that every request moves: plain numbers, made into prometheus-client's when asked for.

The library's own counters take a lock and several calls for each step. These belong to one event
loop, which also serves the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client import CollectorRegistry, Metric


class _Series(Collector):
    def __init__(self, family: Callable[[], Metric]) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        yield self._family()


class Counts(defaultdict[tuple[str, ...], float]):
    """A counter: ``counts[values] += 1``. A series begins, at 0, when it is first looked at."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        super().__init__(float)
        self._name, self._documentation, self._labels = name, documentation, labels
        registry.register(_Series(self.family))

    def family(self) -> CounterMetricFamily:
        """Every series as it is now."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self.items():
            family.add_metric(values, count)
        return family


class Timing:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many were in each bucket, the last one without a bound."""
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


class Timings(dict[tuple[str, ...], Timing]):
    """A histogram: ``timings[values].observe(seconds)``; without labels, ``timings[()]``."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        super().__init__()
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = tuple(buckets)
        self._bound_names = [*map(floatToGoString, self._bounds), "+Inf"]
        registry.register(_Series(self.family))

    def __missing__(self, values: tuple[str, ...]) -> Timing:
        self[values] = timing = Timing(self._bounds)
        return timing

    def family(self) -> HistogramMetricFamily:
        """Every series as it is now."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, timing in self.items():
            buckets = list(zip(self._bound_names, accumulate(timing.counts), strict=True))
            family.add_metric(values, buckets, timing.total)
        return family
