"""What is written to a connection leaves in time, in order, and together with what others write."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme
from tests.support.client import client_hello

from understudy.express.outbox import Outbox
from understudy.express.stream import Stream

Log = list[tuple[str, str, bytes]]
"""("go" or "sent", name of the connection, bytes), as it happened."""


class Line:
    """A transport that says what it was given."""

    def __init__(self, name: str, log: Log) -> None:
        self._name, self._log = name, log
        self.closing = False
        self.unread = 0

    def write(self, data: bytes) -> None:
        self._log.append(("sent", self._name, bytes(data)))

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unread

    def resume_reading(self) -> None:
        """There is nothing to read."""


class Place:
    """Streams that share an outbox, and a task behind each that sends back what comes."""

    def __init__(self, requests: int) -> None:
        self.log: Log = []
        self.outbox = Outbox()
        self.outbox.requests = requests
        self.tasks: list[asyncio.Task[None]] = []

    def stream(self, name: str) -> Stream:
        stream = Stream(self.outbox)
        line: Any = Line(name, self.log)
        stream.connection_made(line)
        return stream

    async def echo(self, name: str, then: Callable[[], Awaitable[object]] | None = None) -> Stream:
        stream = self.stream(name)

        async def answer() -> None:
            while await stream.wait():
                data = stream.take()
                self.log.append(("go", name, data))
                stream.write(data)
                if then is not None:
                    await then()

        self.tasks.append(asyncio.create_task(answer()))
        await asyncio.sleep(0)
        return stream

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.outbox.woken == 0


async def send_back(requests: int) -> Log:
    """Two connections that have something to read in one turn of the loop."""
    place = Place(requests)
    one, two = await place.echo("one"), await place.echo("two")
    one.data_received(b"1")
    two.data_received(b"2")
    await asyncio.sleep(0)
    await place.end()
    return place.log


def test_bytes_of_several_requests_leave_together_in_the_turn_in_which_they_came() -> None:
    assert asyncio.run(send_back(requests=2)) == [
        ("go", "one", b"1"),
        ("go", "two", b"2"),
        ("sent", "one", b"1"),
        ("sent", "two", b"2"),
    ]


def test_a_request_on_its_own_waits_for_nobody() -> None:
    log = asyncio.run(send_back(requests=1))
    assert [what for what, _, _ in log] == ["go", "sent", "go", "sent"]


def test_what_one_writes_leaves_though_another_never_waits_again() -> None:
    async def run() -> Log:
        place = Place(requests=2)
        forever = asyncio.Event()
        one, two = await place.echo("one", forever.wait), await place.echo("two", forever.wait)
        one.data_received(b"1")
        two.data_received(b"2")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await place.end()
        return place.log

    assert ("sent", "one", b"1") in asyncio.run(run())


def test_who_is_cut_off_after_it_was_woken_holds_up_nobody() -> None:
    async def run() -> Log:
        place = Place(requests=2)
        one, two = await place.echo("one"), await place.echo("two")
        one.data_received(b"1")
        place.tasks[0].cancel()
        await asyncio.sleep(0)
        two.data_received(b"2")
        await asyncio.sleep(0)
        await place.end()
        return place.log

    assert ("sent", "two", b"2") in asyncio.run(run())


@pytest.mark.parametrize("end", [Stream.close, Stream.abort])
def test_what_was_written_goes_before_the_end(end: Callable[[Stream], None]) -> None:
    async def run() -> Log:
        place = Place(requests=2)
        stream = place.stream("one")
        stream.write(b"a")
        stream.write(b"b")
        end(stream)
        stream.write(b"c")
        await asyncio.sleep(0)
        return place.log

    assert asyncio.run(run()) == [("sent", "one", b"ab")]


def test_what_was_written_in_the_clear_is_not_under_tls() -> None:
    async def run() -> Log:
        place = Place(requests=2)
        stream = place.stream("one")
        stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
        context = ssl.create_default_context()
        shaking = asyncio.create_task(stream.start_tls(context, server=False, name="a.example"))
        await asyncio.sleep(0)
        shaking.cancel()
        await asyncio.gather(shaking, return_exceptions=True)
        return place.log

    (_, _, clear), (_, _, hello) = asyncio.run(run())
    assert clear == b"HTTP/1.1 200 OK\r\n\r\n"
    assert hello.startswith(b"\x16\x03")


def test_a_wait_has_its_own_time_whatever_the_one_before_it_had() -> None:
    async def run() -> None:
        stream = Place(requests=0).stream("one")
        now = asyncio.get_running_loop().time
        for seconds in (60, 0.01, 60):
            wait = asyncio.create_task(stream.wait(now() + seconds))
            await asyncio.sleep(0)
            stream.data_received(b"x")
            assert await wait
        with pytest.raises(TimeoutError):
            await stream.wait(now() + 0.01)
        # The timer that is left over from a wait that was over in time ends no other.
        wait = asyncio.create_task(stream.wait(now() + 0.01))
        await asyncio.sleep(0)
        stream.data_received(b"x")
        assert await wait
        endless = asyncio.create_task(stream.wait())
        done, _ = await asyncio.wait([endless], timeout=0.05)
        assert not done
        stream.data_received(b"x")
        assert await endless

    asyncio.run(run())


def test_who_has_tls_answer_and_reads_nothing_is_cut_off(upstream_ca: trustme.CA) -> None:
    """TLS answers by itself, to a request for new keys for instance: that waits in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    upstream_ca.issue_cert("good.example").configure_cert(context)

    async def run(unread: int) -> bool:
        log: Log = []
        stream = Stream(Outbox())
        line: Any = Line("one", log)
        line.unread = unread
        stream.connection_made(line)
        shaking = asyncio.create_task(stream.start_tls(context, server=True, name=None))
        await asyncio.sleep(0)
        stream.data_received(client_hello("good.example"))
        shaking.cancel()
        await asyncio.gather(shaking, return_exceptions=True)
        assert log, "it answers"
        return line.closing

    assert not asyncio.run(run(1 << 20))
    assert asyncio.run(run(1 << 22))
