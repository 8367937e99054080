"""Head, body and end of a small message in one write: each write is a TLS record and a syscall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.proxy import commands

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mitmproxy.connection import Connection
    from mitmproxy.proxy.layer import CommandGenerator


class MergedWrites:
    """Keeps writes to one connection back while more of the same message is at hand.

    Only bytes that already arrived whole are kept back, so nothing that streams ever waits.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._held = bytearray()

    def merge(
        self, sent: Iterable[commands.Command], *, more_follows: bool
    ) -> CommandGenerator[None]:
        """Pass commands on, in order; the last writes wait where ``more_follows``."""
        for command in sent:
            if isinstance(command, commands.SendData):
                self._held += command.data
            else:
                yield from self.flush()
                yield command
        if not more_follows:
            yield from self.flush()

    def flush(self) -> CommandGenerator[None]:
        """Write what waits."""
        if self._held:
            data = bytes(self._held)
            self._held.clear()
            yield commands.SendData(self._connection, data)
