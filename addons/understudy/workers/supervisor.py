"""The supervisor: a sidecar whose serving is done by workers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from understudy.audit.sinks import make_sink
from understudy.audit.turns import SharedSink, Turns
from understudy.engine.kinds import ENGINES
from understudy.engine.sidecar import Sidecar, open_authority
from understudy.workers.census import Census
from understudy.workers.crew import Crew
from understudy.workers.nursery import open_nursery
from understudy.workers.ports import HeldPort
from understudy.workers.totals import SummedMetrics
from understudy.workers.worker import Inheritance, work

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from understudy.engine.settings import Settings
    from understudy.workers.nursery import Line


@contextmanager
def prepare(settings: Settings) -> Iterator[Supervisor]:
    """Make what all workers share and the process that starts them; raises START_ERRORS.

    Call it before anything has made a thread or an event loop; what it gives makes the sidecar.
    """
    authority = open_authority(settings)
    inheritance = Inheritance(
        settings, authority, Turns(settings.state_dir), Census(settings.workers)
    )
    held = HeldPort(settings.listen)

    def become_worker(number: int, end: socket.socket) -> int:
        held.close()
        return work(inheritance, number, end)

    ENGINES[settings.engine]()  # imported here, and not by every worker again
    line = open_nursery(become_worker)
    try:
        yield Supervisor(inheritance, line, held.address)
    finally:
        line.close()
        held.close()


class Supervisor:
    """Makes the sidecar of a supervisor, once there is an event loop."""

    def __init__(self, inheritance: Inheritance, line: Line, address: tuple[str, int]) -> None:
        self._inheritance = inheritance
        self._line = line
        self._address = address
        self.is_lost = False
        """Whether it must end because workers can no longer be replaced."""

    def make_sidecar(self, stop: Callable[[], None]) -> Sidecar:
        """Give the sidecar; it calls ``stop`` where it cannot go on."""
        inheritance = self._inheritance
        metrics = SummedMetrics()

        def lose() -> None:
            self.is_lost = True
            stop()

        def make_crew(sidecar: Sidecar) -> Crew:
            return Crew(
                inheritance.settings,
                self._line,
                address=self._address,
                census=inheritance.census,
                metrics=metrics,
                audit=sidecar.audit,
                policies=sidecar.policies,
                placeholders=sidecar.placeholders,
                on_lost=lose,
            )

        return Sidecar(
            inheritance.settings,
            sink=SharedSink(make_sink(inheritance.settings.audit), inheritance.turns),
            metrics=metrics,
            authority=inheritance.authority,
            make_proxy=make_crew,
        )
