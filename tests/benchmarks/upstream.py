"""The benchmark's upstream: as little work per request as asyncio allows.

Run as ``python -m tests.benchmarks.upstream CERT_AND_KEY``; prints its port. ``POST /…`` answers
500 bytes of JSON; ``GET /events/N/RATE`` streams N server-sent events at RATE a second, each with
the sender's clock in it.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time

BODY = b'{"answer": "' + b"x" * 486 + b'"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Upstream(asyncio.Protocol):
    """One connection; requests come one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            head = self.pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.pending) < end + 4 + length:
                return
            self.pending = self.pending[end + 4 + length :]
            if head.startswith(b"get /events/"):
                self.task = asyncio.ensure_future(self.stream(head))
            else:
                self.transport.write(ANSWER)

    async def stream(self, head: bytes) -> None:
        """Send events on a fixed schedule."""
        _, _, count, rate = head.split(b" ", 2)[1].split(b"/")
        self.transport.write(STREAM_HEAD)
        begin = time.monotonic()
        for number in range(int(count)):
            await asyncio.sleep(begin + number / int(rate) - time.monotonic())
            event = b"data: %.6f\n\n" % time.monotonic()
            self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.transport.write(b"0\r\n\r\n")


async def serve(certificate: str) -> None:
    """Listen and print the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, ssl=context, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
