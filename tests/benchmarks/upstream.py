"""The benchmark's upstream: as little work per byte as Python allows.

Run as ``python -m tests.benchmarks.upstream CERT_AND_KEY SECRET``; prints its port. One thread,
epoll and the standard ``ssl``, no event loop in between. A request without the secret gets 403, so
that no proxy is fast by not doing its work. Else it answers, whatever the method:

- ``/events/START/RATE/COUNT``: server-sent events from the moment START of the monotonic clock,
  RATE a second, each with the time at which it was written;
- ``/bytes/COUNT``: so many bytes;
- anything else: 500 bytes of JSON.
"""

from __future__ import annotations

import heapq
import resource
import select
import socket
import ssl
import sys
import time

BODY = b'{"answer": "' + b"x" * 486 + b'"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
BYTES_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
)
BLOCK = memoryview(b"0123456789abcdef" * 16384)


class Conversation:
    """One connection; requests come one after another."""

    def __init__(self, connection: ssl.SSLSocket, secret: bytes) -> None:
        self.connection = connection
        self.secret = secret
        self.pending = b""
        self.output = b""
        self.body_left = 0
        self.shaken = False
        self.waits = False

    def receive(self) -> bytes:
        """Read; returns the path of a request that became whole, or nothing."""
        if not self.shaken:
            self.connection.do_handshake()
            self.shaken = True
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionResetError
        self.pending += data
        end = self.pending.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head = self.pending[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.pending) < end + 4 + length:
            return b""
        self.pending = self.pending[end + 4 + length :]
        return head.split(b" ", 2)[1] if self.secret in head else b"/refused"

    def send(self, data: bytes = b"") -> bool:
        """Write as much as goes; whether anything is left."""
        self.output += data
        try:
            while self.output:
                self.output = self.output[self.connection.send(self.output) :]
            while self.body_left:
                self.body_left -= self.connection.send(BLOCK[: self.body_left])
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return True
        return False


class Upstream:
    """The loop over all connections and streams."""

    def __init__(self, certificate: str, secret: str) -> None:
        self.secret = secret.lower().encode()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.poll = select.epoll()
        self.poll.register(self.listener, select.EPOLLIN)
        self.conversations: dict[int, Conversation] = {}
        self.schedule: list[tuple[float, int, float, int]] = []
        """Due, descriptor, seconds between events, events left."""

    def run(self) -> None:
        """Serve until killed."""
        while True:
            timeout = max(self.schedule[0][0] - time.monotonic(), 0) if self.schedule else None
            for descriptor, _ in self.poll.poll(timeout):
                if descriptor == self.listener.fileno():
                    self.accept()
                else:
                    self.serve(descriptor)
            if self.schedule:
                self.send_events()

    def accept(self) -> None:
        """Take every connection that waits."""
        while True:
            try:
                raw, _ = self.listener.accept()
            except BlockingIOError:
                return
            raw.setblocking(False)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self.context.wrap_socket(
                raw, server_side=True, do_handshake_on_connect=False
            )
            self.conversations[connection.fileno()] = Conversation(connection, self.secret)
            self.poll.register(connection, select.EPOLLIN)

    def serve(self, descriptor: int) -> None:
        """Something can be read or written."""
        conversation = self.conversations[descriptor]
        try:
            if conversation.waits:
                self.send(descriptor, b"")
            elif path := conversation.receive():
                self.answer(descriptor, path)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError:
            self.close(descriptor)

    def answer(self, descriptor: int, path: bytes) -> None:
        """Begin the answer to one request."""
        kind, *numbers = path.strip(b"/").split(b"/")
        if kind == b"events":
            start, rate, count = map(float, numbers)
            entry = (start, descriptor, 1 / rate, int(count))
            heapq.heappush(self.schedule, entry)
            self.send(descriptor, STREAM_HEAD)
        elif kind == b"bytes":
            self.conversations[descriptor].body_left = int(numbers[0])
            self.send(descriptor, BYTES_HEAD % int(numbers[0]))
        else:
            self.send(descriptor, REFUSAL if kind == b"refused" else ANSWER)

    def send(self, descriptor: int, data: bytes) -> None:
        """Write; where something is left, wait for room and for nothing else."""
        conversation = self.conversations[descriptor]
        left = conversation.send(data)
        if left != conversation.waits:
            conversation.waits = left
            self.poll.modify(descriptor, select.EPOLLOUT if left else select.EPOLLIN)

    def send_events(self) -> None:
        """Write every event that is due."""
        now = time.monotonic()
        while self.schedule and self.schedule[0][0] <= now:
            due, descriptor, pause, left = self.schedule[0]
            if descriptor not in self.conversations:
                heapq.heappop(self.schedule)
                continue
            event = b"data: %017.6f\n\n" % now
            chunk = b"%x\r\n%s\r\n" % (len(event), event)
            try:
                if left > 1:
                    heapq.heapreplace(self.schedule, (due + pause, descriptor, pause, left - 1))
                    self.send(descriptor, chunk)
                else:
                    heapq.heappop(self.schedule)
                    self.send(descriptor, chunk + b"0\r\n\r\n")
            except OSError:
                self.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Forget a connection that ended, and the events it will not hear."""
        self.schedule = [entry for entry in self.schedule if entry[1] != descriptor]
        heapq.heapify(self.schedule)
        self.poll.unregister(descriptor)
        self.conversations.pop(descriptor).connection.close()


def main() -> None:
    """Listen, print the port, serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    upstream = Upstream(*sys.argv[1:])
    sys.stdout.write(f"{upstream.listener.getsockname()[1]}\n")
    sys.stdout.flush()
    upstream.run()


if __name__ == "__main__":
    main()
