"""The floor: the least that a proxy of this design can do, and nothing of what Understudy is for.

Run as ``python -m tests.benchmarks.floor PORT_FILE LEAF UPSTREAM_CA PLACEHOLDER SECRET``. uvloop,
httptools and the standard ``ssl``: CONNECT, one certificate for every host, one header replaced,
bodies streamed with backpressure, upstream connections kept for the next client. No policy, no
audit, no metrics, no limits, no checks of anything: never use it for more than this comparison.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import httptools
import uvloop

Head = list[tuple[bytes, bytes]]


class Agent(asyncio.Protocol):
    """The connection of one client: CONNECT, then TLS, then requests one after another."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.origin: tuple[str, int] | None = None
        self.upstream: Upstream | None = None
        self.connect = b""
        self.task: asyncio.Task[None] | None = None
        self.held: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        """Plain at first, then again with TLS."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """CONNECT ends at its blank line; everything behind it is llhttp's."""
        if self.origin is not None:
            self.parser.feed_data(data)
            return
        self.connect += data
        if self.connect.endswith(b"\r\n\r\n"):
            host, _, port = self.connect.split(b" ", 2)[1].decode().rpartition(":")
            self.origin = host, int(port)
            self.parser = httptools.HttpRequestParser(self)
            self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.task = asyncio.ensure_future(self.start_tls())

    async def start_tls(self) -> None:
        """Become the server that the client asked for."""
        loop = asyncio.get_running_loop()
        try:
            self.transport = await loop.start_tls(
                self.transport, self, self.floor.server_context, server_side=True
            )
        except OSError:
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head of its own for every request."""
        self.url = b""
        self.head: Head = []

    def on_url(self, url: bytes) -> None:
        """The target, in pieces perhaps."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Swap here; that is all the judgement there is."""
        if value == self.floor.placeholder:
            value = self.floor.secret
        self.head.append((name, value))

    def on_headers_complete(self) -> None:
        """Write the head to a connection that waits, or hold it until there is one."""
        data = b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        data += b"".join(b"%s: %s\r\n" % line for line in self.head) + b"\r\n"
        assert self.origin is not None
        idle = self.floor.idle.get(self.origin)
        if idle:
            self.upstream = idle.pop()
            self.upstream.begin(self)
            self.upstream.transport.write(data)
        else:
            self.held.append(data)
            self.task = asyncio.ensure_future(self.dial(self.origin))

    async def dial(self, origin: tuple[str, int]) -> None:
        """Open another upstream connection and send what was held."""
        loop = asyncio.get_running_loop()
        try:
            _, upstream = await loop.create_connection(
                lambda: Upstream(self.floor, origin),
                *origin,
                ssl=self.floor.client_context,
                server_hostname=origin[0],
            )
        except OSError:
            self.transport.close()
            return
        self.upstream = upstream
        upstream.begin(self)
        upstream.transport.write(b"".join(self.held))
        self.held.clear()

    def on_body(self, body: bytes) -> None:
        """As it comes (of a known length: the benchmark sends no chunks)."""
        if self.upstream is not None and not self.held:
            self.upstream.transport.write(body)
        else:
            self.held.append(body)

    def pause_writing(self) -> None:
        """The client is slow: read no more for it."""
        if self.upstream is not None:
            self.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has room again."""
        if self.upstream is not None:
            self.upstream.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """What was on its way is of no use to anyone else."""
        if self.upstream is not None:
            self.upstream.transport.close()


class Upstream(asyncio.Protocol):
    """A connection to the origin, for one request at a time."""

    def __init__(self, floor: Floor, origin: tuple[str, int]) -> None:
        self.floor = floor
        self.origin = origin
        self.agent: Agent | None = None

    def connection_made(self, transport: Any) -> None:
        """With TLS already."""
        self.transport = transport

    def begin(self, agent: Agent) -> None:
        """Serve this one's request."""
        self.agent = agent
        self.parser = httptools.HttpResponseParser(self)
        self.head: Head = []
        self.output: list[bytes] = []
        self.chunked = False
        self.done = False

    def data_received(self, data: bytes) -> None:
        """One read, one write."""
        if self.agent is None:
            self.transport.close()
            return
        self.parser.feed_data(data)
        agent = self.agent
        if self.done:
            self.agent, agent.upstream = None, None
            self.floor.idle.setdefault(self.origin, []).append(self)
        if self.output:
            agent.transport.write(b"".join(self.output))
            self.output.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Kept as it is."""
        self.chunked |= name.lower() == b"transfer-encoding"
        self.head.append((name, value))

    def on_headers_complete(self) -> None:
        """The head goes down."""
        self.output.append(b"HTTP/1.1 %d OK\r\n" % self.parser.get_status_code())
        self.output += [b"%s: %s\r\n" % line for line in self.head]
        self.output.append(b"\r\n")

    def on_body(self, body: bytes) -> None:
        """A chunk for each piece, or the piece."""
        if self.chunked:
            self.output += (b"%x\r\n" % len(body), body, b"\r\n")
        else:
            self.output.append(body)

    def on_message_complete(self) -> None:
        """Free for the next request once this is written."""
        if self.chunked:
            self.output.append(b"0\r\n\r\n")
        self.done = True

    def connection_lost(self, error: Exception | None) -> None:
        """Idle: forgotten. Busy: the client sees an end."""
        idle = self.floor.idle.get(self.origin, [])
        if self in idle:
            idle.remove(self)
        if self.agent is not None:
            self.agent.transport.close()


class Floor:
    """What all connections share."""

    def __init__(self, leaf: str, ca_file: str, placeholder: str, secret: str) -> None:
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server_context.load_cert_chain(leaf)
        self.client_context = ssl.create_default_context(cafile=ca_file)
        self.placeholder = placeholder.encode()
        self.secret = secret.encode()
        self.idle: dict[tuple[str, int], list[Upstream]] = {}


async def serve(port_file: Path, floor: Floor) -> None:
    """Listen, write the port, serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Agent(floor), "127.0.0.1", 0, backlog=1024)
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(server.sockets[0].getsockname()[1]))
    temporary.rename(port_file)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), Floor(*sys.argv[2:])))
