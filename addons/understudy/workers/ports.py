"""The port that several processes share, held from before the first to after the last."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from understudy.engine.ports import addresses_of, cannot_listen, make_socket


class HeldPort:
    """A port that is bound and not listened on: connections are refused until a worker listens.

    Linux lets the processes of one user share a port (SO_REUSEPORT) and spreads connections over
    those that listen. Held, it stays ours when no worker lives.
    """

    def __init__(self, listen: tuple[str, int]) -> None:
        host, port = listen
        self._sockets = ExitStack()
        try:
            for family, address in addresses_of(host, port):
                port = self._hold(family, address, port)
        except OSError as error:
            self.close()
            raise cannot_listen(listen, error.errno) from None
        self.address = (host, port)
        """What workers bind: the host as it was given, and the real port."""

    def close(self) -> None:
        """Let go of the port."""
        self._sockets.close()

    def _hold(self, family: int, address: str, port: int) -> int:
        if port:
            # Without sharing, so that another sidecar that listens here is an error.
            with make_socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        held = self._sockets.enter_context(make_socket(family))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address, port))
        bound: int = held.getsockname()[1]
        return bound
