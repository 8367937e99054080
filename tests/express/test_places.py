"""No slot is lost and none is given twice, in whatever order requests come, end and are cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.connection import Server

from understudy.express.broken import Broken
from understudy.express.outbox import Outbox
from understudy.express.places import Place, Slot
from understudy.express.pool import MAX_IDLE, Destination, Pool, Upstream

FOR_EVER_SECONDS = 1e6
ACTIONS = ["come", "come", "open", "open", "answer", "answer"]
ACTIONS += ["come late", "refuse", "break", "cancel", "leave", "end", "cap"]


class Line:
    """As much of a Stream as the pool looks at; an end is told of in the loop's next turn."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = self.failed = False
        self.on_end: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None

    def end(self) -> None:
        """The other side goes away."""
        self.ended = True
        if self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end()

    def abort(self) -> None:
        if not self.failed:
            asyncio.get_running_loop().call_soon(self._lose)

    close = abort

    def _lose(self) -> None:
        if not self.failed:
            self.ended = self.failed = True
            if self.on_lost is not None:
                self.on_lost()


class Request:
    """One request that does as a Transfer does: take or wait, open, be answered, give back."""

    def __init__(self, site: Site, client: str, connection: str, seconds: float) -> None:
        self.destination = Destination("https", "one.example", 443, connection, None, "sha256:0")
        self.line = Line()
        self.opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.upstream: Upstream | None = None
        self.slot: Slot | None = None
        self._site = site
        self.task = asyncio.create_task(self._run(client, seconds))

    def waits(self) -> bool:
        """Whether it has neither a connection nor the right to one."""
        return not self.task.done() and self.upstream is None and self.slot is None

    async def _run(self, client: str, seconds: float) -> None:
        pool = self._site.pool
        who: Any = (client, self.line)
        try:
            self.upstream = pool.take(self.destination)
            if self.upstream is None:
                given = await pool.admit(self.destination, who, seconds, reuse=True)
                self.upstream = await self._open(given) if isinstance(given, Slot) else given
            assert self.upstream.destination == self.destination
            if await self.answered:
                upstream, self.upstream = self.upstream, None
                pool.give_back(upstream)
        except (Broken, ConnectionError):
            pass
        finally:
            if self.upstream is not None:
                self.upstream.stream.abort()
                self.upstream = None

    async def _open(self, slot: Slot) -> Upstream:
        self.slot = slot
        try:
            with slot:
                if not await self.opened:
                    raise ConnectionError
                line: Any = Line()
                self._site.lines.append(line)
                slot.bind(line)
                upstream = Upstream(self.destination, line, Server(address=None), slot, 0.0)
                upstream.opened_at = float("inf")  # the pool's own times are not looked at here
                line.on_lost = upstream.end
        finally:
            self.slot = None
        return upstream


class Site:
    """One server, the pool of connections to it and the requests that want them."""

    def __init__(self) -> None:
        self.cap = 2
        self.waits = 0
        self.pool = Pool(Outbox(), self.cap, self._note_wait)
        self.requests: list[Request] = []
        self.lines: list[Line] = []

    def _note_wait(self) -> None:
        self.waits += 1

    def count_open(self) -> int:
        """Connections that are there or being opened."""
        opening = sum(request.slot is not None for request in self.requests)
        return opening + sum(not line.failed for line in self.lines)

    def act(self, action: str, number: int) -> None:
        """Do something to the request that the number falls on."""
        if action.startswith("come"):
            client, connection = "abc"[number % 3], ("red", "blue")[number // 3 % 2]
            seconds = 0.0 if action == "come late" else FOR_EVER_SECONDS
            self.requests.append(Request(self, client, connection, seconds))
            return
        if action == "cap":
            self.cap = number % 4 + 1
            self.pool.set_cap(self.cap)
            return
        running = [request for request in self.requests if not request.task.done()]
        if not running:
            return
        request = running[number % len(running)]
        if action in ("open", "refuse") and not request.opened.done():
            request.opened.set_result(action == "open")
        elif action in ("answer", "break") and not request.answered.done():
            request.answered.set_result(action == "answer")
        elif action == "cancel":
            request.task.cancel()
        elif action == "leave":
            request.line.end()
        elif action == "end" and request.upstream is not None:
            request.upstream.stream.abort()

    def check_rest(self) -> None:
        """What holds whenever nothing is left to do: who waits has a reason to."""
        if any(request.waits() for request in self.requests):
            assert self.count_open() >= self.cap
            used = [request.upstream.stream for request in self.requests if request.upstream]
            resting = [line for line in self.lines if not line.failed and line not in used]
            assert resting == [], "a connection rests where somebody waits"

    async def end(self) -> None:
        """Let everything be answered, and see that everyone was served and nothing is left."""
        for _ in self.requests:
            for request in self.requests:
                for future in (request.opened, request.answered):
                    if not future.done():
                        future.set_result(True)
            await settle()
        assert all(request.task.done() for request in self.requests), "somebody was not served"
        for request in self.requests:
            assert request.task.cancelled() or request.task.exception() is None
        self.pool.close()
        await settle()
        assert self.count_open() == 0
        before, self.requests = self.waits, []
        for _ in range(self.cap + 1):
            self.act("come", 0)
        await settle()
        assert self.count_open() == self.cap, "a slot was lost, or there is one too many"
        assert self.waits == before + 1
        for request in self.requests:
            request.task.cancel()
        await settle()


async def settle() -> None:
    """Let everything happen that is going to."""
    for _ in range(12):
        await asyncio.sleep(0)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=6),
            st.integers(1, 4),
        ),
        max_size=25,
    )
)
def test_every_slot_is_used_and_comes_back(
    turns: list[tuple[list[tuple[str, int]], int]],
) -> None:
    """Each list of actions happens in one turn of the loop, then some more turns follow."""

    async def go() -> None:
        site = Site()
        for actions, rounds in turns:
            before, most = site.count_open(), site.cap
            for action, number in actions:
                site.act(action, number)
                most = max(most, site.cap)
            for _ in range(rounds):
                await asyncio.sleep(0)
                assert site.count_open() <= max(before, most)
            if rounds == 1:
                await settle()
                site.check_rest()
        await site.end()
        tasks = [request.task for request in site.requests]
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())


def test_a_slot_that_is_given_up_twice_counts_once() -> None:
    """A stream may have been tried with two addresses, and hear of the end of both."""
    place = Place(2)
    slots = [place.enter(), place.enter()]
    assert place.enter() is None
    for _ in range(2):
        assert slots[0] is not None
        slots[0].free()
    assert place.enter() is not None
    assert place.enter() is None


async def come(site: Site, *connections: str) -> list[Request]:
    """Let requests come, and be opened where they may."""
    for connection in connections:
        request = Request(site, "a", connection, FOR_EVER_SECONDS)
        request.opened.set_result(True)
        site.requests.append(request)
        await settle()
    return site.requests[-len(connections) :]


def give_back(site: Site, request: Request) -> Upstream:
    """Give its connection back now, where a request that is answered does so in its turn."""
    upstream, request.upstream = request.upstream, None
    assert upstream is not None
    request.task.cancel()
    site.pool.give_back(upstream)
    return upstream


def run(go: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    """Play with a server that takes one connection."""

    async def play() -> None:
        site = Site()
        site.pool.set_cap(1)
        site.cap = 1
        await go(site)
        await site.end()

    asyncio.run(play())


def test_who_was_cut_off_while_it_waited_makes_nobody_close_a_connection() -> None:
    async def go(site: Site) -> None:
        first, second = await come(site, "red", "red")
        second.task.cancel()
        await settle()
        first.answered.set_result(True)
        (third,) = await come(site, "red")
        assert third.upstream is not None
        assert len(site.lines) == 1

    run(go)


def test_what_is_handed_to_one_that_is_cut_off_goes_to_the_next() -> None:
    async def go(site: Site) -> None:
        first, second, third = await come(site, "red", "red", "red")
        upstream = give_back(site, first)
        second.task.cancel()  # it has been given the connection, and has not run since
        await settle()
        assert (second.upstream, third.upstream) == (None, upstream)

    run(go)


def test_what_is_handed_to_one_that_is_cut_off_is_closed_where_it_suits_nobody() -> None:
    async def go(site: Site) -> None:
        first, second, third = await come(site, "red", "red", "blue")
        give_back(site, first)
        second.task.cancel()
        await settle()
        assert third.upstream is not None
        assert [line.failed for line in site.lines] == [True, False]

    run(go)


def test_a_slot_that_is_free_when_who_waits_is_cut_off_goes_to_the_next() -> None:
    async def go(site: Site) -> None:
        first, second, third = await come(site, "red", "blue", "red")
        assert first.upstream is not None
        first.upstream.stream.abort()
        second.task.cancel()  # before it hears of that, the slot is free
        await settle()
        assert third.upstream is not None

    run(go)


def test_a_connection_that_spoke_while_it_was_handed_over_carries_nothing() -> None:
    """Bytes behind an answer would be taken for the next one."""

    async def go(site: Site) -> None:
        first, second = await come(site, "red", "red")
        give_back(site, first)
        site.lines[0].received = b"HTTP/1.1 200 OK"
        await settle()
        assert second.upstream is not None
        assert [line.failed for line in site.lines] == [True, False]

    run(go)


def test_connections_that_rest_are_bounded_whatever_number_of_hosts_is_named() -> None:
    """Below a wildcard an agent can go to ever new hosts; the ones of before make room."""

    async def run() -> list[bool]:
        pool = Pool(Outbox(), 1, lambda: None)
        who: Any = ("a", Line())
        lines = []
        for number in range(MAX_IDLE + 10):
            host = f"{number}.wild.example"
            destination = Destination("https", host, 443, None, None, "sha256:0")
            slot = await pool.admit(destination, who, FOR_EVER_SECONDS, reuse=True)
            assert isinstance(slot, Slot)
            line: Any = Line()
            lines.append(line)
            slot.bind(line)
            upstream = Upstream(destination, line, Server(address=None), slot, float("inf"))
            line.on_lost = upstream.end
            pool.give_back(upstream)
        await settle()
        open_at_last = [not line.failed for line in lines]
        pool.close()
        await settle()
        assert all(line.failed for line in lines)
        return open_at_last

    assert asyncio.run(run()) == [False] * 10 + [True] * MAX_IDLE
