"""Whatever an upstream answers, its client reads one answer, the one in the audit, or a 502."""

from __future__ import annotations

import http.client
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h11
import httptools
import pytest
import trustme
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.conftest import complete_policy
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream, answer

HOST = "good.example"
EXAMPLES = int(os.environ.get("UNDERSTUDY_FUZZ_HEADS", "120"))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

STATUS_LINES = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 500 \xe4", b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified", b"HTTP/1.0 200 OK", b"HTTP/1.1 206 Partial",
]  # fmt: skip
ODD_STATUS_LINES = [
    b"HTTP/1.1 200", b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Up", b"HTTP/2 200 OK", b"200 OK",
    b"HTTP/1.1 2000 OK", b"HTTP/1.1 99 x", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 +20",
    b"HTTP/1.1 200 a\tb", b"HTTP/1.1 200 a\x00b", b"HTTP/0.9 200 OK", b"", b"HTTP/1.1 103 Hints",
]  # fmt: skip
FRAMINGS = [
    (b"Content-Length: 5", b"hello"),
    (b"Content-Length: 0", b""),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: Chunked", b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n"),
    (b"", b"hello"),
    (b"", b""),
]
ODD_FRAMINGS = [
    (b"Content-Length: 5", b"hel"),
    (b"Content-Length: 5", b"hello" + FORGED),
    (b"Content-Length: 5\r\nContent-Length: 5", b"hello"),
    (b"Content-Length: 5\r\nContent-Length: 50", b"hello" + FORGED),
    (b"Content-Length: 5, 5", b"hello"),
    (b"Content-Length: +5", b"hello"),
    (b"Content-Length: 0x5", b"hello"),
    (b"Content-Length: ", b"hello"),
    (b"Content-Length: -1", b"hello"),
    (b"Content-Length: 99999999999999999999", b"hello"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n" + FORGED),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 50", b"0\r\n\r\n" + FORGED),
    (b"Transfer-Encoding: chunked", b"0\r\n\r\n" + FORGED),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhel"),
    (b"Transfer-Encoding: chunked", b"5\r\nhelloX\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"-5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\nhello\n0\n\n"),
    (b"Transfer-Encoding: chunked", b"5 \r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0\r\nContent-Length: 5\r\n\r\n" + FORGED),
    (b"Transfer-Encoding: xchunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding : chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked, identity", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: gzip", b"hello"),
]
FIELDS = st.sampled_from(
    [b"Content-Type: text/plain", b"X-A: \xe4\xff", b"X-Empty:", b"Set-Cookie: a=b", b"X:  y\t"]
)
ODD_FIELDS = st.sampled_from(
    [b"X: a\rb", b"X: a\x00b", b" folded", b"no colon", b": x", b"X : y", b"X(: y", b"X: \x7f",
     b"Connection: close", b"Connection: keep-alive, X", b"Upgrade: h2c", b"Trailer: X",
     b"Keep-Alive: timeout=5", b"X-A: 1\r\n\r\nHTTP/1.1 200 OK", b"Content-Encoding: gzip"]
)  # fmt: skip
LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\r\n", b"\r\n\r\n", b"\n\r\n"])
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
PARTS = ("status", "framing", "field", "line end", "interim", "byte")


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Something like an answer, with up to two oddities."""
    odd = draw(st.lists(st.sampled_from(PARTS), max_size=2))
    status = draw(st.sampled_from(ODD_STATUS_LINES if "status" in odd else STATUS_LINES))
    framing, body = draw(st.sampled_from(ODD_FRAMINGS if "framing" in odd else FRAMINGS))
    lines = [framing] * bool(framing) + draw(st.lists(FIELDS, max_size=2))
    if "field" in odd:
        lines.append(draw(ODD_FIELDS))
    lines = [status, *draw(st.permutations(lines)), b""]
    ends = [b"\r\n"] * len(lines)
    if "line end" in odd:
        ends[draw(st.integers(0, len(ends) - 1))] = draw(LINE_ENDS)
    raw = b"".join(line + end for line, end in zip(lines, ends, strict=True)) + body
    if "interim" in odd:
        raw = INTERIM + raw
    if "byte" in odd and raw:
        place = draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + draw(st.binary(max_size=2)) + raw[place + draw(st.integers(0, 1)) :]
    return raw


@dataclass(frozen=True)
class Read:
    """What a client's parser makes of an answer; ``rest`` is what it does not take for it."""

    status: int
    body: bytes
    whole: bool = True
    rest: bytes = b""


def read_with_h11(raw: bytes) -> Read:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", HOST)]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    while isinstance(head := connection.next_event(), h11.InformationalResponse):
        pass
    assert isinstance(head, h11.Response), head
    body = b""
    try:
        while isinstance(part := connection.next_event(), h11.Data):
            body += bytes(part.data)
    except h11.RemoteProtocolError:
        return Read(head.status_code, body, whole=False)
    return Read(head.status_code, body, rest=connection.trailing_data[0])


class _Collect:
    def __init__(self) -> None:
        self.whole = 0
        self.body = b""

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole += 1


def read_with_llhttp(raw: bytes) -> Read:
    collect = _Collect()
    parser = httptools.HttpResponseParser(collect)
    parser.feed_data(raw)
    assert collect.whole <= 1
    return Read(parser.get_status_code(), collect.body, whole=bool(collect.whole))


class _Bytes(io.BytesIO):
    def makefile(self, _: str) -> io.BytesIO:
        return self


def read_with_python(raw: bytes) -> Read:
    source = _Bytes(raw)
    source.close = lambda: None  # type: ignore[method-assign] # the rest is looked at
    response = http.client.HTTPResponse(source)  # type: ignore[arg-type] # as far as it is used
    response.begin()
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        return Read(response.status, error.partial, whole=False)
    return Read(response.status, body, rest=source.read())


CLIENTS: list[Callable[[bytes], Read]] = [read_with_h11, read_with_llhttp, read_with_python]


def _final(raw: bytes) -> bytes:
    """Without the interim answers, of which not every client knows all."""
    while raw.startswith(b"HTTP/1.1 1"):
        raw = raw.partition(b"\r\n\r\n")[2]
    return raw


class Stage:
    """A proxy, and an upstream that answers as it is told."""

    def __init__(self, proxy: Proxy, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream

    def ask(self, raw: bytes, *, close: bool) -> bytes:
        """All that a client gets of it."""
        self.upstream.handler = answer(raw, close=close)
        head = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        with self.proxy.tunnel(HOST) as wire:
            return wire.send(head.encode()).read_until_closed()


@pytest.fixture(scope="module")
def stage(
    engine: str,
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    with Upstream(HOST, upstream_ca) as upstream:
        policy = {"allow": [{"name": "good", "hosts": [HOST]}]}
        policy = complete_policy(policy, [upstream], upstream_ca_file)
        with Proxy(policy, tmp_path_factory.mktemp("answers"), engine) as proxy:
            yield Stage(proxy, upstream)


# mitmproxy's own core relays what its own parser takes.
@pytest.mark.engine("express")
@pytest.mark.attack("hostile answer")
@pytest.mark.timeout(0 if EXAMPLES > 1000 else 120)
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=responses())
def test_an_answer_is_read_in_one_way_or_is_a_502(stage: Stage, raw: bytes) -> None:
    written = stage.proxy.audit_file.stat().st_size
    got = stage.ask(raw, close=True)
    stage.proxy.wait_until(lambda: stage.proxy.open_connections() == 0)
    (finished,) = (
        line for line in stage.proxy.events(since=written) if line["event"] == "request.finished"
    )
    readings = [read(_final(got)) for read in CLIENTS]
    event(f"{readings[0].status}, whole: {readings[0].whole}")
    assert set(readings) == {readings[0]}, got
    assert readings[0].rest == b"", got
    assert readings[0].status == finished["status"]
    assert readings[0].whole is ("reason" not in finished or finished["status"] == 502), got
    if finished["status"] == 502 and "reason" in finished:
        assert json.loads(readings[0].body)["understudy"]["reason"] == finished["reason"]
    assert stage.ask(OK, close=False).endswith(b"\r\n\r\nok")
