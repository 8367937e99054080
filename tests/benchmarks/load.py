"""The load generator: closed-loop TLS clients, the same bytes for every subject.

Run as ``python -m tests.benchmarks.load SPEC`` with a JSON spec; prints a JSON result. It is a
process of its own so that it never shares an interpreter with what it measures. One thread, epoll
and the standard ``ssl`` where many clients send at once, so that it costs a fraction of any proxy;
what it cost is in its result, beside what the subject used in the same seconds.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.processes import cpu_seconds, machine_seconds, memory

TIMEOUT_SECONDS = 60
WARM_SECONDS = 0.5
BODY = b'{"prompt": "' + b"x" * 2034 + b'"}'
EVENT = re.compile(rb"data: ([0-9]{10}\.[0-9]{6})\n\n")

Numbers = dict[str, float]


@dataclass(frozen=True)
class Spec:
    """What to send where."""

    kind: str
    """A name in ``RUNS``."""
    clients: int
    seconds: float
    host: str
    port: int
    ca_file: str
    credential: str
    proxy: tuple[str, int] | None
    subject_pid: int | None
    upstream_pid: int
    rate: int = 0
    """Events a second and stream; bytes of a download."""
    resumed: bool = False
    """New connections resume the TLS session of an earlier one."""


class Window:
    """The measured seconds: the clock, and what each side's processors did meanwhile."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.begin = self.used()

    def used(self) -> tuple[float, float, float, float]:
        """Clock, subject, load (this process and the upstream) and whole machine, in seconds."""
        subject = cpu_seconds(self.spec.subject_pid) if self.spec.subject_pid else 0.0
        load = time.process_time() + cpu_seconds(self.spec.upstream_pid)
        return time.perf_counter(), subject, load, machine_seconds()

    def close(self) -> Numbers:
        """The seconds that went by and what share of one core each side was busy."""
        wall, subject, load, machine = (
            after - before for before, after in zip(self.begin, self.used(), strict=True)
        )
        return {
            "wall": wall,
            "subject_cpu": subject,
            "subject_busy": subject / wall,
            "load_busy": load / wall,
            "others_busy": max(machine - subject - load, 0) / wall,
        }


def connect(
    spec: Spec, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Open one TLS connection, through the proxy if there is one; resume ``session``, if given."""
    raw = socket.create_connection(spec.proxy or (spec.host, spec.port), TIMEOUT_SECONDS)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if spec.proxy:
        authority = f"{spec.host}:{spec.port}".encode()
        raw.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (authority, authority))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            # A proxy sends nothing behind its answer before it has seen a hello.
            if not (data := raw.recv(4096)):
                raise RuntimeError(f"closed after CONNECT: {answer!r}")
            answer += data
        if b" 200 " not in answer:
            raise RuntimeError(f"CONNECT was refused: {answer!r}")
    return context.wrap_socket(raw, server_hostname=spec.host, session=session)


def request_bytes(spec: Spec, line: str, body: bytes = b"") -> bytes:
    """A request as an SDK would write it."""
    head = (
        f"{line} HTTP/1.1\r\nHost: {spec.host}:{spec.port}\r\nx-api-key: {spec.credential}\r\n"
        "User-Agent: bench/1\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def message(spec: Spec) -> bytes:
    """The request of 2 kB that most measurements send."""
    return request_bytes(spec, "POST /v1/messages", BODY)


def is_whole(data: bytes) -> bool:
    """Whether an answer is all there, framed by length or chunks; not 200 is an error."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    if data[9:12] != b"200":
        raise RuntimeError(f"unexpected answer: {data[:300]!r}")
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return data.endswith(b"0\r\n\r\n")
    return len(data) >= end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])


def exchange(connection: ssl.SSLSocket, request: bytes) -> None:
    """Send one request and read its whole answer, on a blocking socket."""
    connection.sendall(request)
    data = receive(connection)
    while not is_whole(data):
        data += receive(connection)


def receive(connection: ssl.SSLSocket) -> bytes:
    """Read some; an end is an error here."""
    data = connection.recv(65536)
    if not data:
        raise RuntimeError("closed half-way")
    return data


def run_requests(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """POST on kept-alive connections, each as soon as its last answer is whole."""
    return keep_asking(spec, context, itertools.repeat(message(spec)))


def run_varied(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """As run_requests, but no two requests have the same head."""
    return keep_asking(spec, context, varied_messages(spec))


def varied_messages(spec: Spec) -> Iterator[bytes]:
    """The message again and again, each time with another id and another length."""
    before, _, behind = request_bytes(spec, "POST /v1/messages").rpartition(b"Content-Length: 0")
    for number in itertools.count():
        body = BODY[number % 1000 :]
        head = b"%sX-Request-Id: %016x\r\nContent-Length: %d%s"
        yield head % (before, number, len(body), behind) + body


def keep_asking(spec: Spec, context: ssl.SSLContext, requests: Iterator[bytes]) -> Numbers:
    """Send one request after another on every connection."""
    poll = select.epoll()
    connections = [connect(spec, context) for _ in range(spec.clients)]
    by_descriptor = {connection.fileno(): connection for connection in connections}
    pending = dict.fromkeys(by_descriptor, b"")
    sent: dict[int, float] = {}
    latencies: list[float] = []
    for descriptor, connection in by_descriptor.items():
        exchange(connection, next(requests))
        connection.setblocking(False)
        poll.register(descriptor, select.EPOLLIN)
        sent[descriptor] = time.perf_counter()
        connection.send(next(requests))
    window = None
    now = begin = time.perf_counter()
    while window is None or now < begin + spec.seconds:
        if window is None and now >= begin + WARM_SECONDS:
            window, begin, latencies = Window(spec), time.perf_counter(), []
        ready = poll.poll(TIMEOUT_SECONDS)
        if not ready:
            raise RuntimeError(f"no answer for {TIMEOUT_SECONDS} s")
        for descriptor, _ in ready:
            connection = by_descriptor[descriptor]
            try:
                data = pending[descriptor] + receive(connection)
            except ssl.SSLWantReadError:
                continue
            if not is_whole(data):
                pending[descriptor] = data
                continue
            pending[descriptor] = b""
            now = time.perf_counter()
            latencies.append(now - sent[descriptor])
            sent[descriptor] = now
            connection.send(next(requests))
    return {**rate(latencies, window.close()), **spread(latencies)}


def run_connections(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """A connection for every request, a thread for every client.

    No numbers where sessions are to be resumed and the subject resumes none.
    """
    request = message(spec)
    session = None
    with connect(spec, context) as connection:
        exchange(connection, request)
        if spec.resumed:
            session = connection.session
    if spec.resumed:
        with connect(spec, context, session) as connection:
            exchange(connection, request)
            if not connection.session_reused:
                return {}
    latencies: list[float] = []
    failures: list[Exception] = []
    window = Window(spec)
    deadline = time.perf_counter() + spec.seconds

    def work() -> None:
        try:
            while (begin := time.perf_counter()) < deadline:
                with connect(spec, context, session) as connection:
                    exchange(connection, request)
                    check_resumed(connection, spec)
                latencies.append(time.perf_counter() - begin)
        except (OSError, RuntimeError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(spec.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {**rate(latencies, window.close()), **spread(latencies)}


def check_resumed(connection: ssl.SSLSocket, spec: Spec) -> None:
    """Refuse numbers that mix both kinds of handshakes."""
    if connection.session_reused != spec.resumed:
        raise RuntimeError("some sessions were resumed and others were not")


def run_events(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """Read streams of events that begin together; lags from the upstream's write to our read."""
    connections = [connect(spec, context) for _ in range(spec.clients)]
    by_descriptor = {connection.fileno(): connection for connection in connections}
    pending = dict.fromkeys(by_descriptor, b"")
    for connection in connections:
        exchange(connection, message(spec))
    begin = time.monotonic() + 1
    count = int(spec.rate * (WARM_SECONDS + spec.seconds))
    poll = select.epoll()
    for number, (descriptor, connection) in enumerate(by_descriptor.items()):
        start = begin + number / (spec.clients * spec.rate)
        line = f"GET /events/{start:.6f}/{spec.rate}/{count}"
        connection.sendall(request_bytes(spec, line))
        connection.setblocking(False)
        poll.register(descriptor, select.EPOLLIN)
    lags: list[float] = []
    window = None
    begin += WARM_SECONDS
    while (now := time.monotonic()) < begin + spec.seconds:
        if window is None and now >= begin:
            window, lags = Window(spec), []
        for descriptor, _ in poll.poll(0.01):
            try:
                data = pending[descriptor] + by_descriptor[descriptor].recv(65536)
            except ssl.SSLWantReadError:
                continue
            now = time.monotonic()
            lags += [now - float(moment) for moment in EVENT.findall(data)]
            pending[descriptor] = data.rpartition(b"\n\n")[2]
    assert window is not None
    numbers = {**rate(lags, window.close()), **spread(lags)}
    expected = spec.clients * spec.rate * spec.seconds
    return {**numbers, "delivered": min(len(lags) / expected, 1.0)}


def run_download(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """Read one long answer, for as long as it lasts or the time is up; bytes a second."""
    buffer = bytearray(262144)
    total = 0
    with connect(spec, context) as connection:
        exchange(connection, message(spec))
        window = Window(spec)
        deadline = time.perf_counter() + spec.seconds
        connection.sendall(request_bytes(spec, f"GET /bytes/{spec.rate}"))
        while total < spec.rate and time.perf_counter() < deadline:
            read = connection.recv_into(buffer)
            if not read:
                raise RuntimeError(f"a download ended after {total} bytes")
            total += read
        numbers = window.close()
    return {
        **numbers,
        "per_second": total / numbers["wall"],
        "cpu_each": numbers["subject_cpu"] / total,
    }


def run_tunnels(spec: Spec, context: ssl.SSLContext) -> Numbers:
    """Memory that the subject takes for tunnels that have sent one request each and wait."""
    assert spec.subject_pid is not None
    for _ in range(20):
        with connect(spec, context) as connection:
            exchange(connection, message(spec))
    before = memory(spec.subject_pid)
    connections = []
    for _ in range(spec.clients):
        connection = connect(spec, context)
        exchange(connection, message(spec))
        connections.append(connection)
    after = memory(spec.subject_pid)
    exchange(connections[0], message(spec))  # the first one is still there
    for connection in connections:
        connection.close()
    numbers = {"rss": after.rss - before.rss}
    if after.pss is not None and before.pss is not None:
        numbers["pss"] = after.pss - before.pss
    return numbers


def rate(samples: list[float], window: Numbers) -> Numbers:
    """How many a second, and the subject's processor seconds for each."""
    count = len(samples)
    if not count:
        raise RuntimeError("nothing came through in the whole measurement")
    return {
        **window,
        "count": count,
        "per_second": count / window["wall"],
        "cpu_each": window["subject_cpu"] / count,
    }


def spread(samples: list[float]) -> Numbers:
    """Median and 99th percentile, in seconds."""
    ordered = sorted(samples)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)]}


RUNS = {
    "requests": run_requests,
    "varied": run_varied,
    "connections": run_connections,
    "events": run_events,
    "download": run_download,
    "tunnels": run_tunnels,
}


def main() -> None:
    """Run the spec and print the result."""
    values = json.loads(sys.argv[1])
    values["proxy"] = tuple(values["proxy"]) if values["proxy"] else None
    spec = Spec(**values)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = ssl.create_default_context(cafile=spec.ca_file)
    # squid issues certificates without the key identifiers that the strict mode asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        result = RUNS[spec.kind](spec, context)
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
