"""An attack as it is judged: what the client got, what every upstream saw, what the audit says."""

from __future__ import annotations

import base64
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.client import Answer, Wire
from tests.support.proxy import START_SECONDS, Proxy
from tests.support.upstream import Received, Upstream

from understudy.reasons import Reason

_VERDICTS = re.compile(
    r'^understudy_requests_total\{reason="(\w+)",rule="([^"]+)",verdict="(\w+)"\} (\S+)$',
    re.MULTILINE,
)


@dataclass
class _Mark:
    connections: int
    requests: int
    received: int
    server_names: int


@dataclass
class Scene:
    """A proxy and its upstreams, watched from one moment on: they may be shared between tests.

    ``secrets`` says which upstreams may ever see each secret. :meth:`leave` checks what holds
    after every test: no secret anywhere else, no placeholder upstream. What the proxy wrote in
    other places is looked at when it is stopped (:func:`expect_no_secret_written`).
    """

    proxy: Proxy
    upstreams: Mapping[str, Upstream]
    secrets: Mapping[str, Iterable[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wires: list[Wire] = []
        self._settled = -1
        self.written = self.proxy.audit_file.stat().st_size
        self._spied = self._spied_bytes()
        self._counted = self._verdicts_counted()
        self._marks = {
            name: _Mark(u.connections, len(u.requests), len(u.received), len(u.server_names))
            for name, u in self.upstreams.items()
        }

    # -- the client

    def wire(self, source: str | None = None) -> Wire:
        """A raw connection to the proxy's port, from another address than usual if told."""
        wire = self.proxy.wire(source)
        self.wires.append(wire)
        return wire

    def tunnel(self, host: str, port: int = 443) -> Wire:
        """A TLS connection to ``host`` through the proxy."""
        wire = self.wire()
        answer = wire.connect(f"{host}:{port}")
        assert answer.status == 200, answer
        return wire.start_tls(host)

    def request(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        port: int = 443,
    ) -> Answer:
        """One request in a tunnel of its own; ``headers`` may repeat names."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}" + ("" if port == 443 else f":{port}")]
        lines += [f"{name}: {value}" for name, value in headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return self.tunnel(host, port).request(head, body)

    def placeholder(self, connection: str) -> str:
        """The placeholder that stands for a connection's secret."""
        return self.proxy.placeholder(connection)

    # -- what was seen

    def settle(self) -> None:
        """Close every connection and wait until the proxy has noticed: all is written then."""
        if self._settled == len(self.wires):
            return
        for wire in self.wires:
            wire.close()
        deadline = time.monotonic() + START_SECONDS
        while self.proxy.open_connections() > 0:
            assert time.monotonic() < deadline, "a connection stays open"
        self._settled = len(self.wires)

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The audit's lines since the scene began."""
        return self.proxy.events(event, since=self.written)

    def verdicts(self) -> list[dict[str, Any]]:
        """One line for every action of the client, once all is settled."""
        self.settle()
        wanted = ("request.decided", "tunnel.denied", "connection.rejected")
        return [line for line in self.events() if line["event"] in wanted]

    def verdict(self) -> dict[str, Any]:
        """The one verdict on the one thing that the client did."""
        verdicts = self.verdicts()
        assert len(verdicts) == 1, verdicts
        return verdicts[0]

    def seen(self, upstream: str) -> list[Received]:
        """The requests that an upstream got since the scene began."""
        return self.upstreams[upstream].requests[self._marks[upstream].requests :]

    def bytes_seen(self, upstream: str) -> bytes:
        """Every byte that an upstream got since the scene began."""
        return bytes(self.upstreams[upstream].received[self._marks[upstream].received :])

    def connections_seen(self, upstream: str) -> int:
        """How many connections an upstream got since the scene began."""
        return self.upstreams[upstream].connections - self._marks[upstream].connections

    def server_names_seen(self, upstream: str) -> list[str | None]:
        """The TLS server names that an upstream was asked for since the scene began."""
        return self.upstreams[upstream].server_names[self._marks[upstream].server_names :]

    # -- expectations

    def expect_denied(
        self,
        answer: Answer,
        reason: str,
        *,
        event: str = "request.decided",
        status: int | None = None,
    ) -> dict[str, Any]:
        """A whole, proper denial, one audit line that says the same, and nothing upstream."""
        known = Reason(reason)
        assert answer.status == (status or known.status), (answer, reason)
        assert answer.header("content-type") == "application/json"
        assert f'details="{reason}"' in (answer.header("proxy-status") or "")
        said = answer.json
        assert said["type"] == "error"
        assert said["error"]["code"] == said["understudy"]["reason"] == reason
        assert said["understudy"]["retryable"] == known.retryable
        line = self.expect_rejected(reason, event=event)
        request_id = answer.header("understudy-request-id")
        assert request_id == said["understudy"]["request_id"]
        assert request_id in said["error"]["message"]
        if "request_id" in line:
            assert line["request_id"] == request_id
        return line

    def expect_closed(self, wire: Wire, reason: str) -> dict[str, Any]:
        """Not one byte of an answer, one audit line, and nothing upstream."""
        assert wire.read_until_closed() == b""
        return self.expect_rejected(reason, event="connection.rejected")

    def expect_rejected(self, reason: str, *, event: str) -> dict[str, Any]:
        """One audit line that denies, and nothing upstream."""
        line = self.verdict()
        assert (line["event"], line["verdict"], line["reason"]) == (event, "deny", reason), line
        self.expect_nothing_upstream()
        assert self.events("request.finished") == []
        return line

    def expect_nothing_upstream(self) -> None:
        """No look-up, no connection, no byte."""
        self.settle()
        assert self._spied_bytes() == self._spied, "the proxy looked a name up or connected"
        for name in self.upstreams:
            assert self.connections_seen(name) == 0, name
            assert self.bytes_seen(name) == b"", name

    def expect_allowed(self, upstream: str, count: int = 1) -> list[Received]:
        """``count`` requests allowed, finished and received by ``upstream`` alone."""
        lines = self.verdicts()
        assert [line["verdict"] for line in lines] == ["allow"] * count, lines
        assert len(self.events("request.finished")) == count
        for name in self.upstreams:
            assert len(self.seen(name)) == (count if name == upstream else 0), name
        return self.seen(upstream)

    # -- the end

    def leave(self) -> None:
        """What holds after every test, whatever it was about."""
        self.settle()
        outside = self.proxy.audit_file.read_bytes()[self.written :]
        outside += b"".join(wire.transcript for wire in self.wires)
        for secret, owners in self.secrets.items():
            for form in forms_of(secret):
                assert form not in outside, "a secret is visible outside"
                for name in self.upstreams:
                    assert name in owners or form not in self.bytes_seen(name), name
        for name in self.upstreams:
            for received in self.seen(name):
                for connection in self.proxy.placeholders():
                    assert self.placeholder(connection).encode() not in received.raw_head

    def expect_counted(self) -> None:
        """The metrics have counted the verdicts that the audit tells of, and no other.

        Only where the policy stayed the same: a new one begins to count anew.
        """
        told = Counter(
            (line["verdict"], line["reason"], line.get("rule") or "none")
            for line in self.verdicts()
        )
        assert self._verdicts_counted() - self._counted == told

    def _verdicts_counted(self) -> Counter[tuple[str, str, str]]:
        samples = _VERDICTS.findall(self.proxy.admin("/metrics")[1].decode())
        return Counter(
            {
                (verdict, reason, rule): int(float(number))
                for reason, rule, verdict, number in samples
            }
        )

    def _spied_bytes(self) -> int:
        file = self.proxy.spy_file
        return file.stat().st_size if file.exists() else 0


def expect_no_secret_written(proxy: Proxy, secrets: Iterable[str]) -> None:
    """No secret in any log, audit line, metric or status page since the proxy was started."""
    written = proxy.everything_written()
    for secret in secrets:
        for form in forms_of(secret):
            assert form not in written


def forms_of(secret: str) -> list[bytes]:
    """A secret as it stands in bytes: raw, and in base64 wherever it begins."""
    raw = secret.encode()
    encoded = []
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        encoded.append(text[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6])
    return [raw, *encoded]
