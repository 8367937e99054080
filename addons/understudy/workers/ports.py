"""The port that several processes share, held from before the first to after the last."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from contextlib import ExitStack

from understudy.engine.settings import format_address


class HeldPort:
    """A port that is bound and not listened on: connections are refused until a worker listens.

    Linux lets the processes of one user share a port (SO_REUSEPORT) and spreads connections over
    those that listen. Held, it stays ours when no worker lives.
    """

    def __init__(self, listen: tuple[str, int]) -> None:
        host, port = listen
        self._sockets = ExitStack()
        try:
            for family, address in _addresses(host, port):
                port = self._hold(family, address, port)
        except OSError as error:
            self.close()
            number = error.errno or 0
            # Errors of name look-ups have negative numbers.
            why = os.strerror(number) if number > 0 else "no such address"
            raise OSError(
                f"{format_address(listen)}: cannot listen for agents ({why}). "
                "Give another --listen address; port 0 takes any free one."
            ) from None
        self.address = (host, port)
        """What workers bind: the host as it was given, and the real port."""

    def close(self) -> None:
        """Let go of the port."""
        self._sockets.close()

    def _hold(self, family: int, address: str, port: int) -> int:
        if port:
            # Without sharing, so that another sidecar that listens here is an error.
            with _make(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        held = self._sockets.enter_context(_make(family))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address, port))
        bound: int = held.getsockname()[1]
        return bound


def _make(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        # As asyncio's servers do: the address family that was asked for, and no other.
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    with contextlib.suppress(ValueError):
        version = ipaddress.ip_address(host).version
        return [(socket.AF_INET6 if version == 6 else socket.AF_INET, host)]  # noqa: PLR2004 - IPv6
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
