"""One worker: the proxy as ever, on a port that it shares, told by the supervisor what holds."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from understudy.admin.metrics import Metrics
from understudy.audit.log import AuditLog, AuditUnavailable
from understudy.audit.redaction import hide_placeholders
from understudy.audit.sinks import make_sink
from understudy.audit.turns import SharedSink
from understudy.credentials.placeholders import PlaceholderBook, Placeholders
from understudy.engine.kinds import ENGINES
from understudy.engine.proxy import Proxy
from understudy.policy.watch import PolicyHolder
from understudy.workers.channel import UNASKED, Begin, Channel, Drain, Reopen, Report, Take
from understudy.workers.totals import count

if TYPE_CHECKING:
    import socket

    from understudy.audit.turns import Turns
    from understudy.authority.ca import Authority
    from understudy.engine.settings import Settings
    from understudy.workers.census import Census
    from understudy.workers.channel import Answer, Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What every worker is born with: made once, in the process that all are forked from."""

    settings: Settings
    authority: Authority
    turns: Turns
    census: Census


def work(inheritance: Inheritance, number: int, end: socket.socket) -> int:
    """Serve until told to end; gives the process's exit code."""
    new_event_loop = ENGINES[inheritance.settings.engine]().new_event_loop
    try:
        with asyncio.Runner(loop_factory=lambda: _share_ports(new_event_loop())) as runner:
            return runner.run(_work(inheritance, number, end))
    except Exception as error:  # noqa: BLE001 - the process ends here
        # The text may quote what was sent, so only the type is logged.
        logger.error("worker %d failed with %s", number + 1, type(error).__name__)  # noqa: TRY400
        return 1


def _share_ports(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Let the loop's servers listen on ports that other processes listen on too."""
    share = partial(loop.create_server, reuse_port=True)
    loop.create_server = share  # type: ignore[method-assign] # for any engine, with any loop
    return loop


async def _work(inheritance: Inheritance, number: int, end: socket.socket) -> int:
    worker = Worker(inheritance, number, await Channel.open(end))
    loop = asyncio.get_running_loop()
    for ending in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ending, worker.drain)
    return await worker.serve()


class Worker:
    """Answers the supervisor's questions, one after another, while it serves agents."""

    def __init__(self, inheritance: Inheritance, number: int, channel: Channel) -> None:
        settings = inheritance.settings
        self._inheritance = inheritance
        self._seat = inheritance.census.seat(number)
        self._channel = channel
        self._metrics = Metrics()
        self._audit = AuditLog(
            SharedSink(make_sink(settings.audit), inheritance.turns),
            settings.audit_failure,
            self._metrics.audit_event,
            redact=lambda line: hide_placeholders(line, self._placeholders.current),
        )
        self._placeholders = PlaceholderBook(None)
        self._policies = PolicyHolder(
            settings.policy,
            settings.environ,
            on_loaded=lambda _: None,
            on_rejected=lambda _: None,
        )
        self._proxy: Proxy | None = None
        self._draining: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._resources = AsyncExitStack()

    async def serve(self) -> int:
        """Serve until drained, or until the supervisor is gone; gives the exit code."""
        answering = asyncio.create_task(self._answer_all())
        drained = asyncio.create_task(self._drained.wait())
        await asyncio.wait({answering, drained}, return_when=asyncio.FIRST_COMPLETED)
        # Nobody else would see that nothing is served under a policy that nobody reads any more.
        await self._resources.aclose()
        if not drained.done():
            drained.cancel()
            return answering.result()
        self._channel.send_answer(UNASKED, self._report())
        await self._channel.close()
        answering.cancel()
        return 0

    def drain(self) -> None:
        """Begin to end: accept nothing new, and let requests in progress end."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        if self._proxy is not None:
            await self._proxy.drain()
        self._drained.set()

    async def _answer_all(self) -> int:
        while received := await self._channel.receive_question():
            number, question = received
            answer = await self._answer(question)
            self._channel.send_answer(number, answer)
            if "problem" in answer:
                await self._channel.close()
                break
        return 1

    async def _answer(self, question: Question) -> Answer:
        match question:
            case Begin():
                try:
                    await self._begin(question)
                except (OSError, AuditUnavailable) as error:
                    return {"problem": str(error)}
            case Take():
                self._take(question)
            case Report():
                return self._report()
            case Reopen():
                self._audit.reopen()
            case Drain():
                self.drain()
        return {}

    async def _begin(self, begin: Begin) -> None:
        self._audit.start()
        self._resources.callback(self._audit.close)
        self._take(begin.take)
        proxy = Proxy(
            replace(self._inheritance.settings, listen=begin.address),
            audit=self._audit,
            metrics=self._metrics,
            policies=self._policies,
            placeholders=self._placeholders,
            census=self._seat,
        )
        self._resources.push_async_callback(proxy.close)
        await proxy.start(self._inheritance.authority, begin.admin_port)
        self._proxy = proxy

    def _take(self, take: Take) -> None:
        self._placeholders.current = Placeholders(take.placeholders)
        if take.policy is not None:
            self._metrics.prepare(take.policy)
            if self._proxy is not None:
                self._proxy.follow(take.policy, lambda: None)
        self._policies.take(take.policy)

    def _report(self) -> Answer:
        proxy = self._proxy
        began = time.perf_counter()
        counts = count(self._metrics.collect())
        states = proxy.secrets() if proxy else {}
        return {
            "counts": counts,
            "counting_seconds": time.perf_counter() - began,
            "secrets": {
                name: (state.age_seconds, state.last_error) for name, state in states.items()
            },
            "listens": proxy is not None and not proxy.not_ready(),
            "audit": self._audit.healthy,
        }
