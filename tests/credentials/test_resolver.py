from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.credentials.samples import connection

from understudy.credentials.resolver import Resolver, SecretUnavailable
from understudy.credentials.sources import Fetched, FileSource, SecretError
from understudy.policy.model import Connection, SecretReference

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

GOOD = connection("good", secret=SecretReference("env", "KEY", max_age_seconds=60))


def in_loop[**P](test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an async test in an event loop of its own."""

    @wraps(test)
    def run(*args: P.args, **fixtures: P.kwargs) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SlowSource:
    """Answers when it is told to, with what it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.value: str | SecretError = "slow"
        self.go = asyncio.Event()

    def version(self, locator: str) -> object:
        return 1

    async def fetch(self, locator: str) -> Fetched:
        self.calls += 1
        await self.go.wait()
        if isinstance(self.value, SecretError):
            raise self.value
        return Fetched(self.value, 1)


Event = tuple[str, str, str, str | None]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def environ() -> dict[str, str]:
    return {"KEY": "value-one"}


@pytest.fixture
def resolver(environ: dict[str, str], events: list[Event], clock: Clock) -> Resolver:
    return Resolver(environ, on_event=lambda *event: events.append(event), clock=clock)


def from_file(path: Path) -> Connection:
    return connection("good", secret=SecretReference("file", str(path)))


def write(path: Path, text: str) -> None:
    """Write a file, and wait until its time stamp can be relied on."""
    path.write_text(text)
    while FileSource().version(str(path)) is None:
        pass


@in_loop
async def test_a_secret_is_read_once_and_is_then_at_hand(
    resolver: Resolver, events: list[Event]
) -> None:
    assert resolver.peek(GOOD) is None
    secret = await resolver.resolve(GOOD)
    assert (secret.reveal(), secret.name) == ("value-one", "KEY")
    assert resolver.peek(GOOD) is secret
    assert await resolver.resolve(GOOD) is secret
    assert events == [("refreshed", "good", "env", None)]


@in_loop
async def test_a_value_older_than_its_age_is_not_used(
    resolver: Resolver, environ: dict[str, str], events: list[Event], clock: Clock
) -> None:
    await resolver.resolve(GOOD)
    clock.now += 59.9
    assert resolver.peek(GOOD) is not None
    clock.now += 0.1
    assert resolver.peek(GOOD) is None
    del environ["KEY"]
    with pytest.raises(SecretUnavailable, match="KEY"):
        await resolver.resolve(GOOD)
    assert [event[0] for event in events] == ["refreshed", "failed"]


@in_loop
async def test_events_tell_of_changes_and_not_of_requests(
    resolver: Resolver, environ: dict[str, str], events: list[Event], clock: Clock
) -> None:
    for value in ("a", "a", "b", None, None, "", "b"):
        clock.now += 100
        if value is None:
            environ.pop("KEY", None)
        else:
            environ["KEY"] = value
        try:
            await resolver.resolve(GOOD)
        except SecretUnavailable:
            continue
    results = [(result, detail) for result, _, _, detail in events]
    assert results == [
        ("refreshed", None),
        ("refreshed", None),
        ("failed", "the environment variable KEY is not set"),
        ("failed", "the environment variable KEY is empty"),
        ("refreshed", None),
    ]


@in_loop
async def test_status_tells_age_and_error_and_no_value(
    resolver: Resolver, environ: dict[str, str], clock: Clock
) -> None:
    assert resolver.status() == {}
    await resolver.resolve(GOOD)
    clock.now += 7
    assert resolver.status()["good"].age_seconds == 7
    assert resolver.status()["good"].last_error is None
    clock.now += 100
    environ["KEY"] = "two\nlines"
    with pytest.raises(SecretUnavailable):
        await resolver.resolve(GOOD)
    status = resolver.status()["good"]
    assert status.age_seconds == 107
    assert status.last_error is not None
    assert "two" not in status.last_error


@in_loop
async def test_the_last_value_stays_known_for_scrubbing_only(
    resolver: Resolver, clock: Clock
) -> None:
    secret = await resolver.resolve(GOOD)
    clock.now += 1000
    assert resolver.peek(GOOD) is None
    assert resolver.known(GOOD) == (secret,)


@in_loop
async def test_the_value_before_the_last_stays_known_too(
    resolver: Resolver, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    file = from_file(path)
    for value, known in (
        ("value-1", ["value-1"]),
        ("value-2", ["value-2", "value-1"]),
        ("value-2", ["value-2", "value-1"]),
        ("value-3", ["value-3", "value-2"]),
        ("value-2", ["value-2", "value-3"]),
    ):
        path.write_text(value)
        await resolver.resolve(file)
        assert [secret.reveal() for secret in resolver.known(file)] == known
    path.unlink()
    with pytest.raises(SecretUnavailable):
        await resolver.resolve(file)
    moved = replace(file, secret=GOOD.secret)
    assert [secret.reveal() for secret in resolver.known(moved)] == ["value-2", "value-3"]


@in_loop
async def test_a_changed_file_is_read_again_at_once(resolver: Resolver, tmp_path: Path) -> None:
    path = tmp_path / "key"
    file = from_file(path)
    with pytest.raises(SecretUnavailable):
        await resolver.resolve(file)
    for text in ("value-one", "value-two", "value-two!"):
        write(path, text)
        assert resolver.peek(file) is None
        assert (await resolver.resolve(file)).reveal() == text
        assert resolver.peek(file) is not None
    for broken in ("", "two\nlines"):
        write(path, broken)
        assert resolver.peek(file) is None
        with pytest.raises(SecretUnavailable):
            await resolver.resolve(file)
    path.unlink()
    assert resolver.peek(file) is None
    with pytest.raises(SecretUnavailable, match="No such file"):
        await resolver.resolve(file)


@in_loop
async def test_every_write_is_seen_however_quick(resolver: Resolver, tmp_path: Path) -> None:
    path = tmp_path / "key"
    file = from_file(path)
    for number in range(50):
        path.write_text(f"value-{number:04}")
        assert (
            resolver.peek(file) or await resolver.resolve(file)
        ).reveal() == f"value-{number:04}"


@in_loop
async def test_requests_share_one_fetch(events: list[Event]) -> None:
    source = SlowSource()
    resolver = Resolver({}, by_source={"env": source}, on_event=lambda *e: events.append(e))
    twin = replace(GOOD, name="twin")
    waiting = [asyncio.create_task(resolver.resolve(c)) for c in (GOOD, GOOD, twin)]
    await asyncio.sleep(0)
    source.go.set()
    assert {secret.reveal() for secret in await asyncio.gather(*waiting)} == {"slow"}
    assert source.calls == 1
    assert len(events) == 1


@in_loop
async def test_a_cancelled_request_does_not_cancel_the_fetch_of_others() -> None:
    source = SlowSource()
    resolver = Resolver({}, by_source={"env": source})
    first, second = (asyncio.create_task(resolver.resolve(GOOD)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.go.set()
    assert (await second).reveal() == "slow"


@in_loop
async def test_a_failure_reaches_everyone_who_waits_and_is_not_kept() -> None:
    source = SlowSource()
    source.value = SecretError("no luck")
    resolver = Resolver({}, by_source={"env": source})
    waiting = [asyncio.create_task(resolver.resolve(GOOD)) for _ in range(3)]
    await asyncio.sleep(0)
    source.go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, SecretUnavailable) for result in results)
    source.value = "better"
    assert (await resolver.resolve(GOOD)).reveal() == "better"


@in_loop
async def test_a_slow_secret_holds_up_no_other(environ: dict[str, str]) -> None:
    source = SlowSource()
    resolver = Resolver(environ, by_source={"slow": source, "env": SlowSource()})
    slow = connection("slow", secret=SecretReference("slow", "x"))
    waiting = asyncio.create_task(resolver.resolve(slow))
    other = resolver._sources["env"]
    assert isinstance(other, SlowSource)
    other.go.set()
    assert (await resolver.resolve(GOOD)).reveal() == "slow"
    assert not waiting.done()
    source.go.set()
    await waiting


@in_loop
async def test_a_connection_with_another_secret_gets_that_one(
    resolver: Resolver, environ: dict[str, str]
) -> None:
    await resolver.resolve(GOOD)
    environ["NEW"] = "value-new"
    moved = replace(GOOD, secret=SecretReference("env", "NEW"))
    assert resolver.peek(moved) is None
    assert (await resolver.resolve(moved)).reveal() == "value-new"


@in_loop
async def test_a_connection_without_a_secret_has_none(resolver: Resolver) -> None:
    none = replace(GOOD, secret=None)
    assert resolver.peek(none) is None
    assert resolver.known(none) == ()
    with pytest.raises(SecretUnavailable):
        await resolver.resolve(none)
