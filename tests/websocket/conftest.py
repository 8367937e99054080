"""A proxy with rules for WebSockets on the engine that carries them, and real servers behind it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import trustme
from tests.support.proxy import Proxy
from tests.support.websocket import POLICY, SECRET
from websockets import Subprotocol
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve


class Server:
    """The ``websockets`` package as the upstream; ``handler`` gets each connection."""

    def __init__(
        self, name: str, ca: trustme.CA, handler: Callable[[ServerConnection], None]
    ) -> None:
        self.name, self.tls = name, True
        self.connections: list[ServerConnection] = []
        context = without_tickets(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        ca.issue_cert(name).configure_cert(context)

        def handle(connection: ServerConnection) -> None:
            self.connections.append(connection)
            handler(connection)

        self._server = serve(handle, "127.0.0.1", 0, ssl=context, select_subprotocol=choose)
        host, port = self._server.socket.getsockname()
        self.connect_to = f"{host}:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()


def without_tickets(context: ssl.SSLContext) -> ssl.SSLContext:
    """For the threads of ``websockets``, one of which reads and one of which writes.

    In TLS 1.3 tickets come when the client has begun to write: what Python 3.13.0 writes while
    another thread reads one is lost, about once in a hundred times on a busy machine, without any
    proxy in between too. TLS 1.2 has its tickets in the handshake.
    """
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The first that is offered."""
    return offered[0] if offered else None


def echo(connection: ServerConnection) -> None:
    """Every message back as it came."""
    for message in connection:
        connection.send(message)


class Place:
    """A proxy and one real WebSocket server."""

    def __init__(self, proxy: Proxy, server: Server) -> None:
        self.proxy, self.server = proxy, server

    def open(self, path: str = "/live/x", **options: Any) -> ClientConnection:
        """Open a WebSocket through the proxy, with the placeholder where there is one."""
        headers = {}
        if (placeholder := self.proxy.placeholders().get("good")) is not None:
            headers["Authorization"] = f"Bearer {placeholder}"
        return connect(
            f"wss://{self.server.name}{path}",
            proxy=self.proxy.url,
            ssl=without_tickets(ssl.create_default_context(cafile=self.proxy.ca_cert)),
            additional_headers=headers | options.pop("headers", {}),
            **options,
        )


@pytest.fixture
def start_place(
    stack: ExitStack, upstream_ca: trustme.CA, start_proxy: Callable[..., Proxy]
) -> Callable[..., Place]:
    """Start a real server for a host, and a proxy: ``start_place(handler, "free.example")``."""

    def start(
        handler: Callable[[ServerConnection], None] = echo,
        name: str = "good.example",
        policy: dict[str, Any] = POLICY,
        **options: Any,
    ) -> Place:
        server = stack.enter_context(Server(name, upstream_ca, handler))
        proxy = start_proxy(policy, upstreams=[server], environ={"GOOD_KEY": SECRET}, **options)
        return Place(proxy, server)

    return start
