"""The guarded event loop, where no upstream behaves so on demand."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from understudy.engine.dialer import DialPlan, GuardedEventLoop


class Gone(asyncio.Transport):
    """The transport of a connection that was reset before its other end could be asked for."""

    aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "peername"
        return default

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_that_is_gone_at_once_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Gone()

    async def connect(*_: object, **__: object) -> tuple[Gone, asyncio.Protocol]:
        return gone, asyncio.Protocol()

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", connect)

    async def dial() -> None:
        DialPlan("good.example", 443, (("192.0.2.1", 443),), time.monotonic(), 1.0).use()
        await asyncio.get_running_loop().create_connection(asyncio.Protocol)

    with asyncio.Runner(loop_factory=GuardedEventLoop) as runner, pytest.raises(ConnectionError):
        runner.run(dial())
    assert gone.aborted
