"""What all workers have counted together, the dead ones included.

prometheus-client can share values through mapped files instead. That makes each count on a
request's way dearer, cannot take a policy's series away again, and leaves files to clean up. Here
a worker's counts are asked for when somebody wants to see them, and once a second: what one that
is killed has counted since is lost, its audit lines are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector

from understudy.admin.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    type Labels = tuple[tuple[str, str], ...]
    type Counts = dict[str, dict[tuple[str, Labels], float]]
    """By metric: a sample's name and labels, and its value."""
    type Sent = list[tuple[str, str, list[tuple[str, str]], float]]
    """The same for JSON."""

_COUNTING = frozenset({"counter", "histogram"})


def count(families: Iterable[Metric]) -> Sent:
    """Give every count of a worker; gauges are no counts."""
    return [
        (family.name, sample.name, list(sample.labels.items()), sample.value)
        for family in families
        if family.type in _COUNTING
        for sample in family.samples
    ]


class SummedMetrics(Metrics):
    """The supervisor's own metrics, with the counts of all workers added to them."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, Counts] = {}
        self._dead: Counts = {}

    def render(self) -> bytes:
        """Give every series in the Prometheus text format."""
        return generate_latest(_Sum(self.collect(), [self._dead, *self._alive.values()]))

    def counted(self, worker: int, sent: Sent) -> None:
        """Note all that a worker has counted since it began."""
        counts: Counts = {}
        for family, name, labels, value in sent:
            key = name, tuple((label, text) for label, text in labels)
            counts.setdefault(family, {})[key] = value
        self._alive[worker] = counts

    def bury(self, worker: int) -> None:
        """Keep what a worker had counted; its successor begins at 0."""
        for family, counts in self._alive.pop(worker, {}).items():
            _add(self._dead.setdefault(family, {}), counts)


class _Sum(Collector):
    def __init__(self, own: Iterable[Metric], others: list[Counts]) -> None:
        self._own = own
        self._others = others

    def collect(self) -> Iterator[Metric]:
        for family in self._own:
            if family.type not in _COUNTING:
                yield family
                continue
            values = {
                (sample.name, tuple(sample.labels.items())): sample.value
                for sample in family.samples
            }
            for counts in self._others:
                _add(values, counts.get(family.name, {}))
            summed = Metric(family.name, family.documentation, family.type)
            for (name, labels), value in values.items():
                summed.add_sample(name, dict(labels), value)
            yield summed


def _add(total: dict[tuple[str, Labels], float], counts: dict[tuple[str, Labels], float]) -> None:
    for key, value in counts.items():
        total[key] = total.get(key, 0.0) + value
