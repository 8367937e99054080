"""The load: blocking sockets in threads, the same bytes for every subject.

Run as ``python -m tests.benchmarks.load SPEC`` with a JSON spec; prints a JSON result. It is a
process of its own so that it never shares an interpreter with what it measures.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from dataclasses import dataclass

TIMEOUT_SECONDS = 60
BODY = b'{"prompt": "' + b"x" * 2034 + b'"}'


@dataclass(frozen=True)
class Spec:
    """What to send where."""

    kind: str
    """requests, connections or events."""
    clients: int
    seconds: float
    host: str
    port: int
    ca_file: str
    credential: str
    proxy: tuple[str, int] | None


def connect(spec: Spec, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Open one TLS connection, through the proxy if there is one."""
    raw = socket.create_connection(spec.proxy or (spec.host, spec.port), TIMEOUT_SECONDS)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if spec.proxy:
        authority = f"{spec.host}:{spec.port}".encode()
        raw.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (authority, authority))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += raw.recv(1)
        if b" 200 " not in answer:
            raise RuntimeError(f"CONNECT was refused: {answer!r}")
    return context.wrap_socket(raw, server_hostname=spec.host)


def request_bytes(spec: Spec, line: str, body: bytes = b"") -> bytes:
    """A request as an SDK would write it."""
    head = (
        f"{line} HTTP/1.1\r\nHost: {spec.host}:{spec.port}\r\nx-api-key: {spec.credential}\r\n"
        "User-Agent: bench/1\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def exchange(connection: ssl.SSLSocket, request: bytes) -> None:
    """Send one request and read its whole answer, framed by length or chunks."""
    connection.sendall(request)
    data = connection.recv(65536)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += receive(connection)
    if data[9:12] != b"200":
        raise RuntimeError(f"unexpected answer: {data[:300]!r}")
    head = data[:end].lower()
    if b"chunked" in head:
        while not data.endswith(b"0\r\n\r\n"):
            data += receive(connection)
        return
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    while len(data) < end + 4 + length:
        data += receive(connection)


def receive(connection: ssl.SSLSocket) -> bytes:
    """Read some more; an end is an error here."""
    data = connection.recv(65536)
    if not data:
        raise RuntimeError("closed half-way")
    return data


def run_requests(spec: Spec, context: ssl.SSLContext, results: list[float]) -> None:
    """POST on one kept-alive connection; latencies in seconds."""
    request = request_bytes(spec, "POST /v1/messages", BODY)
    with connect(spec, context) as connection:
        exchange(connection, request)
        deadline = time.perf_counter() + spec.seconds
        while (begin := time.perf_counter()) < deadline:
            exchange(connection, request)
            results.append(time.perf_counter() - begin)


def run_connections(spec: Spec, context: ssl.SSLContext, results: list[float]) -> None:
    """One request a connection; latencies in seconds."""
    request = request_bytes(spec, "POST /v1/messages", BODY)
    deadline = time.perf_counter() + spec.seconds
    while (begin := time.perf_counter()) < deadline:
        with connect(spec, context) as connection:
            exchange(connection, request)
        results.append(time.perf_counter() - begin)


def run_events(spec: Spec, context: ssl.SSLContext, results: list[float]) -> None:
    """Read one stream of events; lags in seconds."""
    rate = 10
    count = int(spec.seconds * rate)
    with connect(spec, context) as connection:
        connection.sendall(request_bytes(spec, f"GET /events/{count}/{rate}"))
        data = b""
        seen = 0
        while seen < count:
            data += receive(connection)
            now = time.monotonic()
            *events, data = data.split(b"\n\n")
            results += [now - float(event.rpartition(b"data: ")[2]) for event in events]
            seen += len(events)


RUNS = {"requests": run_requests, "connections": run_connections, "events": run_events}


def main() -> None:
    """Run the spec and print the result."""
    values = json.loads(sys.argv[1])
    values["proxy"] = tuple(values["proxy"]) if values["proxy"] else None
    spec = Spec(**values)
    context = ssl.create_default_context(cafile=spec.ca_file)
    per_client: list[list[float]] = [[] for _ in range(spec.clients)]
    failures: list[str] = []

    def work(results: list[float]) -> None:
        try:
            RUNS[spec.kind](spec, context, results)
        except (OSError, RuntimeError) as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work, args=(results,)) for results in per_client]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    numbers = sorted(number for results in per_client for number in results)
    if failures or not numbers:
        sys.exit(f"{len(failures)} clients failed, first: {failures[:1]}")
    result = {
        "count": len(numbers),
        "per_second": len(numbers) / (elapsed if spec.kind == "connections" else spec.seconds),
        "p50": numbers[len(numbers) // 2],
        "p99": numbers[int(len(numbers) * 0.99)],
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
