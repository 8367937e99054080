"""Upstreams that keep every byte they receive: TLS or plain, on loopback, on any free port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

Handler = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]
Conversation = Callable[["Received", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """One request as the upstream's socket gave it."""

    raw_head: bytes
    body: bytes
    connection: int
    """Which connection of the upstream it came on, from 0."""

    @property
    def request_line(self) -> str:
        return self.raw_head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def method(self) -> str:
        return self.request_line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.request_line.split(" ")[1]

    def headers(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        wanted = name.lower()
        pairs = (line.partition(b":") for line in self.raw_head.split(b"\r\n")[1:] if line)
        return [
            v.strip().decode("latin-1")
            for n, _, v in pairs
            if n.decode("latin-1").lower() == wanted
        ]

    def header(self, name: str) -> str | None:
        """The one value of a header, or None."""
        values = self.headers(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


@dataclass
class Upstream:
    """A server for ``name`` that records bytes and answers with ``handler``.

    ``tls=False`` gives plain HTTP. ``neighbours`` are other names at the same address, each with a
    certificate of its own. ``conversation`` takes the socket over once a head has come, body
    included. Use as a context manager; it runs in a thread of its own.
    """

    name: str
    ca: trustme.CA | None = None
    handler: Handler | None = None
    tls: bool = True
    address: str = "127.0.0.1"
    certificate: trustme.LeafCert | None = None
    neighbours: tuple[str, ...] = ()
    conversation: Conversation | None = None
    namespace: int | None = None
    """The network namespace where it listens, if not in that of who starts it (Linux)."""
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    """TCP connections accepted."""
    handshakes: int = 0
    """TLS handshakes completed (or plain connections)."""
    received: bytearray = field(default_factory=bytearray)
    """Every decrypted byte that was read, all connections together."""
    server_names: list[str | None] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Upstream:
        if self.tls:
            self._prepare_tls()
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def connect_to(self) -> str:
        """Where ``upstream.connect_to`` in a policy must lead."""
        return f"{self.address}:{self.port}"

    def wait_for(self, condition: Callable[[Upstream], bool], seconds: float = 20.0) -> None:
        """Wait until ``condition`` holds; it is looked at after every event."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), "upstream saw nothing"

    def soon(self, action: Callable[[], object]) -> None:
        """Run ``action`` in the upstream's thread, for instance to set an asyncio.Event."""
        self._loop.call_soon_threadsafe(action)

    def _note(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self, started: threading.Event) -> None:
        if self.namespace is not None:
            os.setns(self.namespace, os.CLONE_NEWNET)
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, self.address, 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _prepare_tls(self) -> None:
        self._contexts = {
            name: _server_context(self._certificate_of(name))
            for name in (self.name, *self.neighbours)
        }
        self._contexts[self.name].sni_callback = self._choose_certificate

    def _certificate_of(self, name: str) -> trustme.LeafCert:
        if name == self.name and self.certificate is not None:
            return self.certificate
        assert self.ca is not None
        return self.ca.issue_cert(name)

    def _choose_certificate(self, tls: ssl.SSLObject, name: str | None, _: object) -> None:
        self.server_names.append(name)
        tls.context = self._contexts.get(name or self.name, self._contexts[self.name])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._note()
        try:
            if self.tls:
                await writer.start_tls(self._contexts[self.name])
            self.handshakes += 1
            self._note()
            await self._converse(reader, writer, number)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # The test is over: no closing handshake with a peer that may not answer, and no wait
            # for an end that asyncio does not tell of where TLS was just about to start.
            writer.transport.abort()
            raise
        writer.close()
        with contextlib.suppress(Exception):
            await writer.wait_closed()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            head = await self._read_head(reader)
            received = Received(head, b"", number)
            if self.conversation is not None:
                self.requests.append(received)
                self._note()
                await self.conversation(received, reader, writer)
            else:
                received.body = await self._read_body(reader, received)
                self.requests.append(received)
                self._note()
                await (self.handler or answer_ok)(received, writer)
            await writer.drain()
            if writer.is_closing():
                return

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.received += error.partial
            raise
        self.received += head
        return head

    async def _read_body(self, reader: asyncio.StreamReader, received: Received) -> bytes:
        if received.header("transfer-encoding"):
            body = bytearray()
            while True:
                line = await reader.readuntil(b"\r\n")
                self.received += line
                size = int(line.split(b";")[0], 16)
                chunk = await reader.readexactly(size + 2)
                self.received += chunk
                body += chunk[:-2]
                if size == 0:
                    return bytes(body)
        body = await reader.readexactly(int(received.header("content-length") or 0))
        self.received += body
        return body


def open_connections_to(port: int) -> int:
    """How many sockets are connected to a port, or were and are not closed yet (proc(5), tcp)."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("connections are counted in Linux's /proc")
    rows = (line.split() for line in table.read_text().splitlines()[1:])
    established, close_wait = "01", "08"
    # A row can come twice where others open connections while the table is read.
    return len(
        {
            (row[1], row[2])
            for row in rows
            if row[2].endswith(f":{port:04X}") and row[3] in (established, close_wait)
        }
    )


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def answer_ok(received: Received, writer: asyncio.StreamWriter) -> None:
    """200 with a small fixed body."""
    del received
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")


def answer(raw: bytes, *, close: bool = False) -> Handler:
    """A handler that writes ``raw`` for every request."""

    async def handler(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        if close:
            await writer.drain()
            writer.close()

    return handler


async def answer_echo(received: Received, writer: asyncio.StreamWriter) -> None:
    """200 with the request's head and body as the body."""
    body = received.raw_head + received.body
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
