"""What goes upstream is one request, the same one for every parser, or nothing goes upstream."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tests.fuzz.other_parsers import MisreadError, Parser, Seen, every_parser, find_program
from tests.support.client import REFUSED, Answer, Wire
from tests.support.proxy import START_SECONDS
from tests.support.world import World

HOST = "other.example"
ANSWER_SECONDS = 0.5
"""A request without answer for this long is one whose end the proxy still waits for."""
EXAMPLES = int(os.environ.get("UNDERSTUDY_FUZZ_HEADS", "80"))
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n"
AFTER = Seen("GET", "/sentinel", "sentinel", b"")
SECOND = b"GET /second HTTP/1.1\r\nHost: other.example\r\n\r\n"
"""Allowed, where it is a request: what hides it from the proxy and not from an upstream is not."""


@dataclass(frozen=True)
class Part:
    """A part of a request: what clients send, and what they should not."""

    usual: list[bytes]
    odd: tuple[bytes, ...]


def part(usual: list[bytes], *odd: bytes) -> Part:
    return Part(usual, odd)


METHODS = part(
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"],
    b"get", b"TRACE", b"CONNECT", b"G\tET", b"PRI", b"", b"GET ", b" GET", b"M-SEARCH", b"QUERY",
)  # fmt: skip
TARGETS = part(
    [b"/", b"/v1/x?q=1", b"/a/b%20c", b"/@scope%2fname", b"/?a=b&c=%26"],
    b"*", b"//x", b"/%2e%2e/x", b"http://other.example/", b"/\x80", b"/#f", b"/a;b", b"x", b"",
    b"/x HTTP/1.1", b"/x\x00", b"/x\ty", b"/\\x", b"https://evil.example/", b"/a?x=\xff", b"/{}|^",
)  # fmt: skip
VERSIONS = part(
    [b"HTTP/1.1"],
    b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/01.1",
)  # fmt: skip
HOSTS = part(
    [b"Host: other.example"],
    b"Host: other.example:443", b"HOST: OTHER.example", b"host:other.example.",
    b"Host: evil.example",
    b"Host: other.example\r\nHost: evil.example", b"X-Host: other.example", b"Host : other.example",
    b"Host: other.example, evil.example", b"Host: other.example\x00", b"Host:\r\n other.example",
    b"Host: other.example/", b"Host: u@other.example", b"Host: evil.example#@other.example",
)  # fmt: skip
FIELDS = part(
    [b"Accept: */*", b"User-Agent: x/1", b"X-A: \xe4", b"X-Empty:", b"X-Tab: a\tb", b"Cookie: a=b",
     b"Connection: close", b"Connection: keep-alive"],
    b"Expect: 100-continue", b"Connection: Host", b"Connection: Content-Length", b"Upgrade: h2c",
    b"TE: trailers", b"Trailer: X", b" folded", b"\tfolded", b"no colon", b": empty", b"A B: c",
    b"X: a\rb", b"X: a\x00b", b"X: a\x0bb", b"X\xff: a", b"X: \x7f", b"Content-Length", b"X:\x85",
    b"Content_Length: 5", b"Transfer_Encoding: chunked", b"Proxy-Connection: x", b"Keep-Alive: 5",
    b"X(: 1", b'X: "\r\n', b"Upgrade: websocket", b"X-HTTP-Method-Override: PUT",
)  # fmt: skip
LINE_ENDS = part(
    [b"\r\n"], b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n",
)  # fmt: skip


def chunked(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


# Headers that say how long the body is, and the bytes that follow.
CLEAR_FRAMINGS = [
    (b"", b""),
    (b"Content-Length: 0", b""),
    (b"Content-Length: 5", b"hello"),
    (b"Transfer-Encoding: chunked", chunked(b"hello")),
    (b"transfer-encoding: Chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"00A;a=b\r\n0\r\n\r\nhello\r\n0\r\n\r\n"),
    (b"Content-Length:\t 70000 \t", b"0\r\n\r\n" * 14000),
    (b"", SECOND),
    (b"Content-Length: 5", b"hello" + SECOND),
    (b"Transfer-Encoding: chunked", chunked(b"hello") + SECOND),
]
ODD_FRAMINGS = [
    (b"Content-Length: 5", b"hello" + SENTINEL),
    (b"Content-Length: 4", b"hello" + SECOND),
    (b"Content-Length: 6", b"hello" + SECOND),
    (b"Content-Length: %d" % len(SECOND), SECOND * 2),
    (b"Content-Length: 0", SENTINEL),
    (b"", SENTINEL),
    (b"Content-Length: 5\r\nContent-Length: 5", b"hello"),
    (b"Content-Length: 5\r\nContent-Length: 6", b"hello!"),
    (b"Content-Length: 5, 5", b"hello"),
    (b"Content-Length: +5", b"hello"),
    (b"Content-Length: 05", b"hello"),
    (b"Content-Length: 0x5", b"hello"),
    (b"Content-Length: 5 ", b"hello"),
    (b"Content-Length:\x0b5", b"hello"),
    (b"Content-Length: -1", b"hello"),
    (b"Content-Length: 5\r\nTransfer-Encoding: chunked", chunked(b"hello")),
    (b"Transfer-Encoding: chunked\r\nContent-Length: 5", chunked(b"")),
    (b"Transfer-Encoding: xchunked", chunked(b"hello")),
    (b"Transfer-Encoding: chunked, chunked", chunked(b"hello")),
    (b"Transfer-Encoding: gzip, chunked", chunked(b"hello")),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", chunked(b"hello")),
    (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", chunked(b"hello")),
    (b"Transfer-Encoding: identity", SECOND),
    (b"Transfer-Encoding:", SECOND),
    (b"Transfer-Encoding: chunke\x64\xa0", chunked(b"hello") + SECOND),
    (b"Transfer-Encoding:\r\n chunked", chunked(b"hello")),
    (b"Transfer-Encoding : chunked", chunked(b"hello")),
    (b"Transfer-Encoding: chunked\x0b", chunked(b"hello")),
    (b'Transfer-Encoding: "chunked"', chunked(b"hello")),
    (b"Transfer-Encoding: chunked", b"5;x=y\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b'5;x="\r\n"\r\nhello\r\n0\r\n\r\n'),
    (b"Transfer-Encoding: chunked", b"5\nhello\n0\n\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5 \r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"+5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0x5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"0_5\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"00000000000000000005\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n" + SENTINEL),
    (b"Transfer-Encoding: chunked", chunked(b"hello") + SENTINEL),
    (b"Transfer-Encoding: chunked", b"-1\r\nhello\r\n0\r\n\r\n"),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n" + SECOND),
    (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0;\n\r\n\r\n" + SECOND),
    (b"Transfer-Encoding: chunked", b"5;\nxx\r\nhello\r\n0\r\n\r\n" + SECOND),
    (b"Transfer-Encoding: chunked", b"2;\r\r\n\r\n0\r\n\r\n" + SECOND),
    (b"Transfer-Encoding: chunked", b"5\r\nhelloXX0\r\n\r\n" + SECOND),
    (b"Transfer-Encoding: chunked", b"\r\n5\r\nhello\r\n0\r\n\r\n"),
]
PARTS = ("method", "target", "version", "host", "framing", "field", "line end", "byte")
# Damage to a byte, wherever it stands: what is put in its place.
INSTEAD = st.sampled_from(
    [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\x85",
     b"\xa0", b"\xff", b":", b",", b";", b"=", b'"', b"\\", b"%", b"/", b"?", b"#", b"@", b"0",
     b"_"]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """The bytes of something like a request, with up to two oddities; what follows it included.

    An odd byte may stand anywhere, also in the body.
    """
    odd = draw(st.lists(st.sampled_from(PARTS), max_size=2))

    def choose(name: str, kind: Part) -> bytes:
        return draw(st.sampled_from(kind.odd if name in odd else kind.usual))

    framing, body = draw(st.sampled_from(ODD_FRAMINGS if "framing" in odd else CLEAR_FRAMINGS))
    lines = [choose("host", HOSTS), *([framing] if framing else [])]
    lines += draw(st.lists(st.sampled_from(FIELDS.usual), max_size=2))
    if "field" in odd:
        lines.append(draw(st.sampled_from(FIELDS.odd)))
    lines = draw(st.permutations(lines))
    start = b" ".join(
        [choose("method", METHODS), choose("target", TARGETS), choose("version", VERSIONS)]
    )
    ends = [b"\r\n"] * (len(lines) + 2)
    if "line end" in odd:
        ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from(LINE_ENDS.odd))
    texts = [start, *lines, b""]
    raw = b"".join(text + end for text, end in zip(texts, ends, strict=True)) + body
    if "byte" in odd:
        place = draw(st.integers(0, min(len(raw) - 1, 400)))
        raw = raw[:place] + draw(INSTEAD) + raw[place + draw(st.integers(0, 1)) :]
    return raw


def single_oddities() -> Iterator[bytes]:
    """A request for each thing that may be odd, all else as usual: every one is tried each time."""
    start, host = b"POST /v1/x?q=1 HTTP/1.1", HOSTS.usual[0]
    for method in METHODS.odd:
        yield method + b" /x HTTP/1.1\r\n" + host + b"\r\n\r\n"
    for target in TARGETS.odd:
        yield b"GET " + target + b" HTTP/1.1\r\n" + host + b"\r\n\r\n"
    for version in VERSIONS.odd:
        yield b"GET / " + version + b"\r\n" + host + b"\r\n\r\n"
    for odd in HOSTS.odd:
        yield start + b"\r\n" + odd + b"\r\nContent-Length: 5\r\n\r\nhello"
    for field in FIELDS.odd:
        yield start + b"\r\n" + host + b"\r\n" + field + b"\r\nContent-Length: 5\r\n\r\nhello"
    for end in LINE_ENDS.odd:
        yield start + end + host + b"\r\nContent-Length: 5\r\n\r\nhello"
        yield start + b"\r\n" + host + b"\r\nContent-Length: 5" + end + b"\r\nhello"
        yield start + b"\r\n" + host + b"\r\nContent-Length: 5\r\n" + end + b"hello"
    for framing, body in ODD_FRAMINGS:
        yield start + b"\r\n" + host + b"\r\n" + framing + b"\r\n\r\n" + body


@dataclass
class Stage:
    """The proxy, the upstream behind it, and everyone who reads what the upstream got."""

    world: World
    parsers: dict[str, Parser]

    def send(self, raw: bytes) -> list[Answer]:
        """The proxy's answers to ``raw``, until it closes or waits for more."""
        answers: list[Answer] = []
        with self.world.proxy.wire() as wire:
            assert wire.connect(f"{HOST}:443").status == 200
            wire.start_tls(HOST)
            wire.socket.settimeout(ANSWER_SECONDS)
            with contextlib.suppress(*REFUSED, TimeoutError, IndexError):
                wire.send(raw)
                for _ in range(1 + raw.count(SECOND)):
                    head_only = raw.startswith(b"HEAD") and not answers
                    answers.append(_final_answer(wire, head_only=head_only))
        return answers

    def settle(self) -> None:
        """Wait until the proxy has noticed that the client is gone."""
        deadline = time.monotonic() + START_SECONDS
        while self.world.proxy.open_connections() > 0:
            assert time.monotonic() < deadline


def _final_answer(wire: Wire, *, head_only: bool) -> Answer:
    while True:
        answer = wire.read(head_only=head_only)
        if answer.status >= 200:
            return answer


@pytest.fixture(scope="module")
def stage(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with every_parser(tmp_path_factory.mktemp("parsers")) as parsers:
        yield Stage(world, parsers)


@pytest.mark.attack("smuggling")
@pytest.mark.timeout(0 if EXAMPLES > 1000 else 120)
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=requests())
def test_an_upstream_sees_the_requests_that_were_decided_and_no_other(
    stage: Stage, raw: bytes
) -> None:
    event(_expect_one_reading(stage, raw))


@pytest.mark.attack("smuggling")
@pytest.mark.parametrize("part", range(4))
def test_no_single_oddity_makes_an_upstream_see_another_request(stage: Stage, part: int) -> None:
    for raw in list(single_oddities())[part::4]:
        _expect_one_reading(stage, raw)


def _expect_one_reading(stage: Stage, raw: bytes) -> str:
    """Send it; what everyone saw must agree. How it went."""
    proxy, upstream = stage.world.proxy, stage.world.upstreams[HOST]
    written = proxy.audit_file.stat().st_size
    requests_before, bytes_before = len(upstream.requests), len(upstream.received)
    answers = stage.send(raw)
    stage.settle()
    lines = proxy.events(since=written)
    verdicts = [line for line in lines if "verdict" in line]
    sent = bytes(upstream.received[bytes_before:])
    # Bytes behind the request are an action of their own.
    assert 1 <= len(verdicts) <= 2 + raw.count(SECOND), lines
    allowed = [line for line in verdicts if line["verdict"] == "allow"]
    assert len(upstream.requests) - requests_before <= len(allowed)
    if not allowed:
        assert sent == b"", raw
        assert [answer.status for answer in answers if answer.status < 400] == [], raw
        return f"refused: {verdicts[0]['reason']}"
    finished = [line for line in lines if line["event"] == "request.finished"]
    assert len(finished) == len(allowed)
    framings = sent.lower().count(b"\ncontent-length") + sent.lower().count(b"\ntransfer-encoding")
    assert framings <= len(allowed), sent
    if "reason" in finished[-1]:
        assert finished[-1]["reason"] != "upstream_failed", ("the client broke it off", raw)
        for name in ("h11", "llhttp"):
            with contextlib.suppress(MisreadError):
                assert len(stage.parsers[name](sent)) <= len(allowed), (name, sent)
        return f"broke off: {finished[-1]['reason']}"
    readings = {name: _read(parse, sent) for name, parse in stage.parsers.items()}
    requests = readings["h11"]
    assert isinstance(requests, list), (readings, sent)
    for name, reading in readings.items():
        assert isinstance(reading, list), (name, reading, sent)
        tells_fields = name != "nginx"
        assert reading == [
            request if tells_fields else replace(request, fields=None) for request in requests
        ], (name, sent)
    for request, verdict, end in zip(requests, allowed, finished, strict=True):
        http = verdict["http"]
        assert (request.method, request.host) == (http["method"], http["host"])
        assert request.target.partition("?")[0] == http["path"]
        assert len(request.body) == end["bytes_sent"]
    return f"forwarded: {len(allowed)}"


def _read(parse: Parser, sent: bytes) -> list[Seen] | str:
    """The requests that ``sent`` is, whatever follows on the same connection."""
    last = b" HTTP/1.0\r\n" in sent  # nothing can follow
    try:
        seen = parse(sent if last else sent + SENTINEL)
    except MisreadError as error:
        return f"refused: {error}"
    if last:
        return seen
    *requests, after = seen or [None]
    return requests if after and replace(after, fields=()) == AFTER else f"no end: {seen}"


@pytest.mark.parametrize("program", ["node", "go", "nginx"])
def test_other_servers_parsers_take_part(stage: Stage, program: str) -> None:
    if find_program(program) is None:
        pytest.skip(f"{program} is not installed: its parser is not asked")
    read = _read(stage.parsers[program], b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: \xe4\r\n\r\n")
    fields = None if program == "nginx" else (("x-a", "\xe4"),)
    assert read == [Seen("GET", "/x", "a", b"", fields)]
