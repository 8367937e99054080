"""The harness itself: each load gets through, and only a swapped credential does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
import trustme
from tests.benchmarks.__main__ import load, start_upstream
from tests.benchmarks.load import RUNS, Spec
from tests.benchmarks.subjects import HOST, PLACEHOLDER, Place, start_floor


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spec]:
    """A short load on the floor, the leanest subject."""
    folder: Path = tmp_path_factory.mktemp("bench")
    with ExitStack() as stack:
        ca = trustme.CA()
        ca_file = str(folder / "ca.pem")
        ca.cert_pem.write_to_path(ca_file)
        upstream_pid, port = start_upstream(stack, ca, folder, set())
        subject = start_floor(Place(folder, port, ca, ca_file, set()))
        stack.callback(subject.stop)
        assert subject.process is not None
        yield Spec(
            kind="requests",
            clients=3,
            seconds=0.1,
            host=HOST,
            port=port,
            ca_file=ca_file,
            credential=PLACEHOLDER,
            proxy=subject.address,
            subject_pid=subject.process.pid,
            upstream_pid=upstream_pid,
            rate=1000,
        )


@pytest.mark.parametrize("kind", RUNS)
def test_each_load_comes_through_a_proxy_that_swaps(spec: Spec, kind: str) -> None:
    numbers = load(replace(spec, kind=kind), set())
    if kind == "tunnels":
        # What three tunnels take is less than what a process may give back meanwhile.
        assert isfinite(numbers["rss"])
    else:
        assert numbers["per_second"] >= 0


def test_sessions_are_resumed_where_that_is_measured(spec: Spec) -> None:
    numbers = load(replace(spec, kind="connections", resumed=True), set())
    assert numbers["per_second"] > 0


def test_a_proxy_that_does_not_swap_is_a_failure_and_not_fast(spec: Spec) -> None:
    with pytest.raises(RuntimeError, match="403"):
        load(replace(spec, credential="sk-something-else"), set())
