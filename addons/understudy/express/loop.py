"""The express engine's event loop: uvloop, with care for which connections it opens and takes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import uvloop

from understudy.engine.dialer import connect_as_planned
from understudy.engine.ports import bind_all
from understudy.express.listener import Listener

if TYPE_CHECKING:
    from understudy.engine.dialer import Attempt


class GuardedUvloop(uvloop.Loop):
    """As :class:`~understudy.engine.dialer.GuardedEventLoop`, on libuv.

    Sockets are connected by Python, not by libuv, and only to addresses, so that Python's audit
    hooks see every connection and libuv looks no name up.
    """

    async def create_server(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """Listen; what cannot be accepted for want of descriptors waits, and is not dropped."""
        if host is None or options.get("ssl") is not None:
            return await super().create_server(protocol_factory, host, port, **options)
        sockets = bind_all(host, port, reuse_port=bool(options.get("reuse_port")))
        return Listener(self, protocol_factory, sockets, options.get("backlog", 100))

    async def create_connection(self, protocol_factory: Any, *_: Any, **options: Any) -> Any:
        """Connect as the plan says; host and port from the caller are not believed."""
        options.pop("host", None)
        options.pop("port", None)
        connect = super().create_connection

        async def attempt(address: str, port: int) -> Any:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                await self.sock_connect(connection, (address, port))
                return await connect(protocol_factory, sock=connection, **options)
            except BaseException:
                connection.close()
                raise

        made: Attempt = attempt
        return await connect_as_planned(made)
