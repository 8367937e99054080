"""One worker as the supervisor sees it: asked, heard and mourned; then another has its place."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from typing import TYPE_CHECKING

from understudy.workers.channel import UNASKED, Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.workers.channel import Answer, Question
    from understudy.workers.nursery import Line


class Place:
    """The place of worker ``number``, which one process after another has."""

    def __init__(self, number: int, line: Line, on_report: Callable[[int, Answer], None]) -> None:
        self.number = number
        self.process: int | None = None
        self.is_serving = False
        self.report: Answer | None = None
        """What the process that has the place told last; None where it is empty."""
        self._line = line
        self._on_report = on_report
        self._channel: Channel | None = None
        self._asked = itertools.count(UNASKED + 1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._death: asyncio.Future[str] | None = None
        self._is_orphan = False

    @property
    def is_empty(self) -> bool:
        """Whether no process has the place."""
        return self._death is None

    async def live(
        self, first: Callable[[], Question], on_serving: Callable[[], None]
    ) -> tuple[int | None, str]:
        """Have a worker started and asked the ``first`` question; give its end: who, and why.

        ``on_serving`` is called where the answer names no problem. OSError without a nursery.
        """
        ours, theirs = socket.socketpair()
        self._death = asyncio.get_running_loop().create_future()
        try:
            with theirs:
                self._line.start(self.number, theirs)
            channel = self._channel = await Channel.open(ours)
            hearing = asyncio.create_task(self._hear(channel))
            problem = None
            try:
                problem = (await self.ask(first())).get("problem")
                if problem is None:
                    self.is_serving = True
                    on_serving()
            except ConnectionError:
                pass  # dead already; the nursery says how
            why = await self._death
            await hearing  # for what it said last
            return self.process, f"cannot serve: {problem}" if problem else why
        finally:
            self._hang_up()
            self.is_serving = False
            self.process = self.report = self._death = None

    async def ask(self, question: Question) -> Answer:
        """Ask the process; ConnectionError where it is dead, or dies before it answers."""
        if self._channel is None:
            raise ConnectionError("no worker is there")
        number = next(self._asked)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._channel.send_question(number, question)
            return await answer
        finally:
            del self._waiting[number]

    async def kill(self) -> None:
        """End the process now, and wait until it has ended."""
        self._line.kill(self.number)
        if self._death is not None:
            await asyncio.wait([self._death])

    def started(self, process: int) -> None:
        """The nursery has forked the process."""
        self.process = process

    def died(self, why: str) -> None:
        """The process has ended."""
        if self._death is not None and not self._death.done():
            self._death.set_result(why)

    def orphan(self) -> None:
        """Nobody sees the process's end any more: its silence is its end."""
        self._is_orphan = True
        if self._channel is None:
            self.died("ended unseen")

    async def _hear(self, channel: Channel) -> None:
        while received := await channel.receive_answer():
            number, answer = received
            if "counts" in answer:
                self.report = answer
                self._on_report(self.number, answer)
            waiting = self._waiting.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        self._hang_up()
        if self._is_orphan:
            self.orphan()

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.hang_up()
        self._channel = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the worker is dead"))


def describe_end(status: int | None) -> str:
    """How a process ended, in words; ``status`` as :mod:`subprocess` gives it."""
    if status is None:
        return "could not be started"
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
