"""All workers together, as one proxy: started, told, watched, replaced and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING

from understudy.admin.status import SecretState
from understudy.workers.channel import Begin, Drain, Reopen, Report, Take
from understudy.workers.nursery import MESSAGE_BYTES
from understudy.workers.place import Place, describe_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from understudy.audit.log import AuditLog
    from understudy.authority.ca import Authority
    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.engine.settings import Settings
    from understudy.policy.model import Policy
    from understudy.policy.watch import PolicyHolder
    from understudy.workers.census import Census
    from understudy.workers.channel import Answer, Question
    from understudy.workers.nursery import Line
    from understudy.workers.totals import SummedMetrics

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often workers are asked for their counts, and how long one may take to answer."""
COUNTING_SHARE = 0.01
"""Of a worker's time, at most: with a thousand rules it is asked less often."""
TAKE_SECONDS = 10.0
"""A worker that has not taken a policy by then is killed: it may not go on under the old one."""
CLOSING_SECONDS = 10.0
"""Beyond the drain time, until workers that are still there are killed."""
SETTLED_SECONDS = 10.0
"""A worker that lived this long is replaced at once when it dies."""
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 30.0


class Crew:
    """The workers of one sidecar; ``on_lost`` is called where no more can be started."""

    def __init__(
        self,
        settings: Settings,
        line: Line,
        *,
        address: tuple[str, int],
        census: Census,
        metrics: SummedMetrics,
        audit: AuditLog,
        policies: PolicyHolder,
        placeholders: PlaceholderBook,
        on_lost: Callable[[], None],
    ) -> None:
        self.address = address
        self._settings = settings
        self._line = line
        self._census = census
        self._metrics = metrics
        self._audit = audit
        self._policies = policies
        self._placeholders = placeholders
        self._on_lost = on_lost
        self._places = [Place(n, line, self._on_report) for n in range(settings.workers)]
        self._absences: dict[int, str] = {}
        """Why nobody serves in a place, by its number."""
        self._admin_port: int | None = None
        self._is_listening = False
        self._is_ending = False
        self._is_lost = False
        self._policy_turn = asyncio.Lock()
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, authority: Authority, admin_port: int | None) -> None:
        """Start every worker; OSError with the sentence of the first that cannot serve."""
        del authority  # they are born with it
        self._admin_port = admin_port
        self._spawn(self._listen_to_nursery())
        loop = asyncio.get_running_loop()
        begun = [loop.create_future() for _ in self._places]
        self._keepers = [
            asyncio.create_task(self._keep(place, first))
            for place, first in zip(self._places, begun, strict=True)
        ]
        problems = [problem for problem in await asyncio.gather(*begun) if problem is not None]
        if problems:
            raise OSError(problems[0])
        self._is_listening = True
        self._spawn(self._look_regularly())

    def follow(self, policy: Policy | None, tell: Callable[[], None]) -> None:
        """Hand a policy to every worker, and ``tell`` once none decides by another."""
        if not self._keepers:
            tell()  # workers that are started later begin with it
        else:
            take = Take(policy, self._placeholders.current) if policy is not None else None
            self._spawn(self._hand_out(take, tell))

    def reopen(self) -> None:
        """Have every worker open the audit's file anew."""
        for place in self._places:
            self._spawn(_try(place, Reopen()))

    async def look(self) -> None:
        """Ask every worker; the policy that is on its way to them arrives first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS), self._policy_turn:
                pass
        await asyncio.gather(*(_try(place, Report(), LOOK_SECONDS) for place in self._places))
        self._metrics.set_active_connections(self._census.total())

    def not_ready(self) -> list[str]:
        """Which workers do not serve, and why."""
        if not self._is_listening:
            return ["the proxy's port does not accept connections"]
        count = len(self._places)
        return [
            f"worker {place.number + 1} of {count} does not serve: it "
            + self._absences.get(place.number, "has not begun")
            for place in self._places
            if not place.is_serving
        ]

    def audit_healthy(self) -> bool:
        """Whether this process and every worker can write."""
        return self._audit.healthy and all(report["audit"] for report in self._reports())

    def secrets(self) -> dict[str, SecretState]:
        """What workers know about secrets: the oldest age, any error."""
        states: dict[str, SecretState] = {}
        for report in self._reports():
            for name, (age_seconds, error) in report["secrets"].items():
                other = states.get(name, SecretState(None, None))
                ages = [age for age in (age_seconds, other.age_seconds) if age is not None]
                states[name] = SecretState(max(ages, default=None), other.last_error or error)
        return states

    def open_connections(self) -> int:
        """How many client connections all workers have."""
        return self._census.total()

    async def drain(self) -> None:
        """Have every worker accept nothing new and end once its requests have."""
        self._is_listening = False
        self._is_ending = True
        for place, keeper in zip(self._places, self._keepers, strict=True):
            if place.is_empty:
                keeper.cancel()
            else:
                self._spawn(_try(place, Drain()))
        await self._wait_for_ends(self._settings.drain_seconds + CLOSING_SECONDS)

    async def close(self) -> None:
        """Kill the workers that are still there."""
        self._is_ending = True
        for place in self._places:
            self._line.kill(place.number)
        await self._wait_for_ends(CLOSING_SECONDS)
        for task in (*self._keepers, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._keepers, *self._tasks, return_exceptions=True)

    async def _wait_for_ends(self, seconds: float) -> None:
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=seconds)

    # -- one place

    async def _keep(self, place: Place, begun: asyncio.Future[str | None]) -> None:
        """See that somebody serves in a place, until the end."""
        loop = asyncio.get_running_loop()
        pause_seconds = 0.0
        while not self._is_ending:
            born = loop.time()
            try:
                process, why = await place.live(
                    self._first_question, lambda: self._served(place, begun)
                )
            except OSError as error:  # no descriptors, or no nursery
                process, why = None, f"could not be started ({error.strerror})"
            self._census.forget(place.number)
            self._metrics.bury(place.number)
            self._absences[place.number] = why
            if not begun.done():
                begun.set_result(why)
                return
            if self._is_ending or self._is_lost:
                return
            if loop.time() - born >= SETTLED_SECONDS:
                pause_seconds = 0.0
            logger.error(
                "worker %d (process %s) %s; another takes its place %s",
                place.number + 1,
                process or "?",
                why,
                f"in {pause_seconds:g} seconds" if pause_seconds else "now",
            )
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(MAX_PAUSE_SECONDS, pause_seconds * 2 or FIRST_PAUSE_SECONDS)

    def _first_question(self) -> Question:
        take = Take(self._policies.current, self._placeholders.current)
        return Begin(self.address, self._admin_port, take)

    def _served(self, place: Place, begun: asyncio.Future[str | None]) -> None:
        if self._is_ending:
            self._spawn(_try(place, Drain()))
        if not begun.done():
            begun.set_result(None)
            return
        self._absences.pop(place.number, None)
        logger.warning("worker %d (process %s) serves", place.number + 1, place.process)

    def _on_report(self, number: int, report: Answer) -> None:
        self._metrics.counted(number, report["counts"])

    def _reports(self) -> list[Answer]:
        return [place.report for place in self._places if place.report is not None]

    # -- all places

    async def _hand_out(self, take: Take | None, tell: Callable[[], None]) -> None:
        async with self._policy_turn:
            if take is not None:
                await asyncio.gather(*(self._hand(place, take) for place in self._places))
            tell()

    async def _hand(self, place: Place, take: Take) -> None:
        if not await _try(place, take, TAKE_SECONDS):
            logger.error(
                "worker %d did not take the policy within %g seconds and is killed",
                place.number + 1,
                TAKE_SECONDS,
            )
            await place.kill()

    async def _look_regularly(self) -> None:
        while not self._is_ending:
            counting_seconds = max((r["counting_seconds"] for r in self._reports()), default=0.0)
            await asyncio.sleep(max(LOOK_SECONDS, counting_seconds / COUNTING_SHARE))
            await self.look()

    async def _listen_to_nursery(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self._receive(loop):
            message = json.loads(data)
            if "started" in message:
                self._places[message["started"]].started(message["process"])
            elif "died" in message:
                self._places[message["died"]].died(describe_end(message["status"]))
        self._is_lost = True
        for place in self._places:
            place.orphan()
        if not self._is_ending:
            logger.error("the process that starts workers has ended, and with it this proxy")
            self._on_lost()

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._line.socket, MESSAGE_BYTES)
        except ConnectionError:
            return b""

    def _spawn(self, work: Coroutine[None, None, object]) -> None:
        task = asyncio.create_task(_run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _run(work: Coroutine[None, None, object]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - nobody waits for this task
        logger.error("the supervisor failed with %s", type(error).__name__)  # noqa: TRY400


async def _try(place: Place, question: Question, timeout_seconds: float | None = None) -> bool:
    """Ask a worker; whether it answered in time. One that is dead has nothing to answer."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await place.ask(question)
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True
