"""The sockets that agents connect to, accepted from one by one.

libuv drops what it cannot accept for want of descriptors. Here it waits in the backlog, as it does
with asyncio's own loop, and is served when there are descriptors again.
"""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from understudy.engine.ports import EXHAUSTED, NO_DESCRIPTORS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


class Listener:
    """Accepts connections on ``sockets`` until it is closed; each gets a protocol."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.Protocol],
        sockets: list[socket.socket],
        backlog: int,
    ) -> None:
        self.sockets = sockets
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._backlog = backlog
        self._adopting: set[asyncio.Task[None]] = set()
        for listening in sockets:
            listening.listen(backlog)
            loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Accept no more; connections that are there go on."""
        sockets, self.sockets = self.sockets, []
        for listening in sockets:
            self._loop.remove_reader(listening)
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(self._backlog):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                # It stays readable; looking at it again and again would be all that is done.
                logger.warning(NO_DESCRIPTORS)
                self._loop.remove_reader(listening)
                self._loop.call_later(_RETRY_SECONDS, self._resume, listening)
                return
            connection.settimeout(0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection)
        except OSError as error:
            connection.close()
            logger.error("a connection could not be taken: %s", error.strerror)  # noqa: TRY400 - one line
