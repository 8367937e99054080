"""A client that lives for one request pays for no connection to an upstream that is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.distance import Distance, Unavailable, run_apart
from tests.support.short_lived import SECRET, open_road

ONE_WAY_MS = 40
TRIES = 5


def test_the_second_curl_opens_no_upstream_connection(tmp_path: Path) -> None:
    with open_road(tmp_path) as road:
        assert road.go_directly().round_trips == 3
        assert road.go_through_proxy().round_trips == 3
        for _ in range(3):
            assert road.go_through_proxy().round_trips == 1
        assert {received.connection for received in road.upstream.requests} == {0, 1}
        assert {received.header("x-api-key") for received in road.upstream.requests} == {SECRET}
        assert len(road.proxy.wait_for_events("request.finished", 4)) == 4


def test_far_away_the_second_curl_is_faster_than_curl_without_the_proxy(tmp_path: Path) -> None:
    """Delays have a lower bound: three round trips are never quicker, one of some tries is."""

    def travel(distance: Distance) -> None:
        round_trip = 2 * distance.delay_ms / 1000
        with open_road(tmp_path, distance) as road:
            direct = [road.go_directly() for _ in range(TRIES)]
            first = road.go_through_proxy()
            later = [road.go_through_proxy() for _ in range(TRIES)]
        assert {trip.round_trips for trip in direct} == {3}
        assert first.round_trips == 3
        assert {trip.round_trips for trip in later} == {1}
        assert min(trip.seconds for trip in direct) >= 3 * round_trip
        assert min(trip.seconds for trip in later) >= round_trip
        assert min(trip.seconds for trip in later) < min(trip.seconds for trip in direct)

    try:
        run_apart(ONE_WAY_MS, travel)
    except Unavailable as reason:
        pytest.skip(str(reason))
