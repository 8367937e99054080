"""An upstream that hides the secret in what it sends back, or breaks off while it does."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from tests.support.client import Answer, Wire
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream
from tests.support.world import with_key_in

SECRET = "sk-real-9f8e7d6c5b4a32100123456789"
RAW = SECRET.encode()
FIRST_KEY = "first-key-0123456789abcdef"
SECOND_KEY = "second-key-0123456789abcdef"


class Script:
    """An upstream's handler that does what the test says."""

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        await self.play(received, writer)

    def write(self, raw: bytes) -> None:
        """Answer with ``raw`` from now on."""

        async def play(received: Received, writer: asyncio.StreamWriter) -> None:
            writer.write(raw)

        self.play: Callable[[Received, asyncio.StreamWriter], Awaitable[None]] = play


def whole(head: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def hidden(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], script: Script
) -> Scene:
    good = start_upstream("good.example", handler=script)
    policy = {
        "connections": {
            "good": {
                "hosts": ["good.example"],
                "carriers": [{"header": "X-Api-Key"}],
                "secret": {"env": "GOOD_KEY"},
            }
        },
        "allow": [{"name": "good", "connection": "good"}],
    }
    return start_scene(policy, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})


def ask(
    scene: Scene, *, method: str = "GET", version: str = "1.1", extra: str = ""
) -> tuple[Wire, Answer]:
    wire = scene.tunnel("good.example")
    head = f"{method} / HTTP/{version}\r\nHost: good.example\r\n"
    head += f"X-Api-Key: {scene.placeholder('good')}\r\n{extra}\r\n"
    wire.send(head.encode())
    return wire, wire.read(head_only=method == "HEAD")


def finished(scene: Scene) -> dict[str, object]:
    scene.settle()
    (line,) = scene.events("request.finished")
    return line


@pytest.mark.attack("reflection in disguise")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_no_coding_hides_a_secret(hidden: Scene, script: Script, coding: str, size: int) -> None:
    encode: Callable[[bytes], bytes] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "br": brotli.compress,
        "zstd": zstandard.ZstdCompressor().compress,
    }[coding]
    body = encode(b"<" + RAW + b"> and " + RAW)
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(piece), bytes(piece)) for piece in itertools.batched(body, size)
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\n" % coding.encode()
    script.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    _, answer = ask(hidden)
    placeholder = hidden.placeholder("good").encode()
    assert answer.body == b"<" + placeholder + b"> and " + placeholder
    assert answer.header("content-encoding") is None
    assert finished(hidden)["reflected"] == 2
    assert hidden.proxy.metrics()['understudy_reflections_total{connection="good"}'] >= 2


@pytest.mark.attack("reflection in disguise")
@pytest.mark.parametrize("coding", ["compress", "gzip, br", "aes128gcm", "dcb"])
def test_a_coding_that_is_not_known_is_refused(hidden: Scene, script: Script, coding: str) -> None:
    script.write(whole(f"Content-Encoding: {coding}\r\n".encode(), RAW[::-1]))
    _, answer = ask(hidden)
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    line = finished(hidden)
    assert (line["status"], line["reason"]) == (502, "upstream_failed")
    assert line["detail"] == "the upstream used an encoding not asked for"


@pytest.mark.attack("reflection in disguise")
def test_a_transfer_coding_hides_no_secret(hidden: Scene, script: Script) -> None:
    body = gzip.compress(RAW)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    script.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    _, answer = ask(hidden)
    assert (answer.status, answer.reason) == (502, "upstream_failed")


@pytest.mark.attack("reflection in disguise")
def test_no_part_of_a_body_is_asked_for_or_taken(hidden: Scene, script: Script) -> None:
    script.write(
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/34\r\nContent-Length: 10\r\n\r\n"
        + RAW[:10]
    )
    _, answer = ask(hidden, extra='Range: bytes=0-9\r\nIf-Range: "x"\r\nAccept-Encoding: gzip\r\n')
    assert (answer.status, answer.reason) == (502, "upstream_failed")
    (received,) = hidden.seen("good.example")
    assert received.header("range") is None
    assert received.header("if-range") is None
    assert received.header("accept-encoding") == "identity"


@pytest.mark.attack("reflection in disguise")
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_bomb_goes_off_nowhere(hidden: Scene, script: Script, coding: str) -> None:
    encode = {
        "gzip": gzip.compress,
        "br": brotli.compress,
        "zstd": zstandard.ZstdCompressor(level=19).compress,
    }[coding]
    script.write(whole(b"Content-Encoding: %s\r\n" % coding.encode(), encode(b"\0" * (64 << 20))))
    wire = hidden.tunnel("good.example")
    wire.send(
        b"GET / HTTP/1.1\r\nHost: good.example\r\nX-Api-Key: %s\r\n\r\n"
        % hidden.placeholder("good").encode()
    )
    answer = wire.read_until_closed()
    assert b"\r\n0\r\n\r\n" not in answer[-7:]
    line = finished(hidden)
    assert line["reason"] == "upstream_failed"
    assert line["detail"] == "the upstream's compressed body grew beyond all bounds"


@pytest.mark.attack("reflection in disguise")
@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (gzip.compress(b"text before the end")[:-4], "the upstream's compressed body broke off"),
        (gzip.compress(b"text") + b"junk behind", "the upstream's compressed body is damaged"),
        (b"no gzip at all", "the upstream's compressed body is damaged"),
    ],
    ids=["cut", "junk behind", "junk"],
)
def test_a_coded_body_that_breaks_off_has_no_proper_end(
    hidden: Scene, script: Script, body: bytes, detail: str
) -> None:
    script.write(whole(b"Content-Encoding: gzip\r\n", body))
    wire = hidden.tunnel("good.example")
    wire.send(
        b"GET / HTTP/1.1\r\nHost: good.example\r\nX-Api-Key: %s\r\n\r\n"
        % hidden.placeholder("good").encode()
    )
    answer = wire.read_until_closed()
    # An engine that has sent nothing yet can still say so; one that has begun cannot end it.
    if not answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n"):
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not answer.endswith(b"\r\n0\r\n\r\n")
    line = finished(hidden)
    assert (line["reason"], line["detail"]) == ("upstream_failed", detail)


@pytest.mark.attack("reflection in disguise")
def test_interim_responses_and_trailers_are_cleaned_or_dropped(
    hidden: Scene, script: Script
) -> None:
    script.write(
        b"HTTP/1.1 103 Early Hints\r\nLink: </%s>; rel=preload\r\nProxy-Status: understudy\r\n"
        b"Content-Length: 7\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n"
        b"3\r\nend\r\n0\r\nX-End: %s\r\n\r\n" % (RAW, RAW)
    )
    wire, early = ask(hidden)
    assert early.status == 103
    assert early.header("link") == f"</{hidden.placeholder('good')}>; rel=preload"
    assert early.header("proxy-status") is early.header("content-length") is None
    assert wire.read().body == b"end"
    wire, final = ask(hidden, version="1.0")
    assert (final.status, final.body) == (200, b"end")


@pytest.mark.attack("reflection in disguise")
def test_names_values_and_the_reason_are_cleaned(hidden: Scene, script: Script) -> None:
    script.write(
        b"HTTP/1.1 200 Hello %s\r\nX-%s: 1\r\nSet-Cookie: k=%s; Path=/\r\nContent-Length: 0\r\n\r\n"
        % (RAW, RAW, RAW)
    )
    _, answer = ask(hidden)
    placeholder = hidden.placeholder("good")
    assert RAW not in answer.head
    assert answer.header("set-cookie") == f"k={placeholder}; Path=/"
    assert answer.header(f"x-{placeholder}") == "1"
    assert finished(hidden)["reflected"] == 3


@pytest.mark.attack("reflection in disguise")
@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200 OK"), ("GET", b"304 Not Modified")])
def test_answers_without_body_keep_their_headers(
    hidden: Scene, script: Script, method: str, status: bytes
) -> None:
    script.write(
        b"HTTP/1.1 %s\r\nContent-Length: 1234\r\nContent-Encoding: gzip\r\nX-Echo: %s\r\n\r\n"
        % (status, RAW)
    )
    wire, answer = ask(hidden, method=method)
    assert answer.header("content-length") == "1234"
    assert answer.header("x-echo") == hidden.placeholder("good")
    script.write(whole(b"", b"next"))
    key = hidden.placeholder("good")
    again = wire.request(f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {key}")
    assert again.body == b"next"


@pytest.mark.attack("reflection in disguise")
def test_an_old_client_reads_a_cleaned_body_until_the_close(hidden: Scene, script: Script) -> None:
    script.write(whole(b"", b"[" + RAW + b"]"))
    _, answer = ask(hidden, version="1.0")
    assert answer.header("transfer-encoding") is None
    assert answer.body == b"[" + hidden.placeholder("good").encode() + b"]"


@pytest.mark.attack("reflection in disguise")
def test_each_event_leaves_before_the_next_is_sent(hidden: Scene, script: Script) -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def play(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for gate, text in zip(gates, (b"sk", b"key " + RAW, b"sk-real"), strict=True):
            event = b'data: {"delta": "%s"}\n\n' % text
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            await gate.wait()
        writer.write(b"0\r\n\r\n")

    script.play = play
    wire = hidden.tunnel("good.example")
    placeholder = hidden.placeholder("good")
    wire.send(f"GET / HTTP/1.1\r\nHost: good.example\r\nX-Api-Key: {placeholder}\r\n\r\n".encode())
    assert wire.read(head_only=True).status == 200
    for gate, text in zip(gates, ("sk", f"key {placeholder}", "sk-real"), strict=True):
        event = f'data: {{"delta": "{text}"}}\n\n'.encode()
        got = b""
        while len(got) < len(event):
            got += wire.read_chunk()
        assert got == event
        hidden.upstreams["good.example"].soon(gate.set)
    assert wire.read_chunk() == b""


@pytest.mark.attack("reflection in disguise")
def test_a_secret_replaced_while_it_is_under_way_is_still_known(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(FIRST_KEY)
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        key = received.header("x-api-key") or ""
        if key == FIRST_KEY:
            waiting.set()
            await go_on.wait()
        writer.write(whole(b"X-Echo: %s\r\n" % key.encode(), key.encode()))

    good = start_upstream("good.example", handler=handler)
    policy = with_key_in(file)
    owners = {FIRST_KEY: ["good.example"], SECOND_KEY: ["good.example"]}
    scene = start_scene(policy, [good], owners)
    placeholder = scene.placeholder("good")
    head = f"GET / HTTP/1.1\r\nHost: good.example\r\nX-Api-Key: {placeholder}\r\n\r\n".encode()
    early = scene.tunnel("good.example").send(head)
    good.wait_for(lambda _: len(good.requests) == 1)
    fresh = file.with_suffix(".new")
    fresh.write_text(SECOND_KEY)
    fresh.replace(file)
    late = scene.tunnel("good.example").send(head).read()
    assert late.body == placeholder.encode()
    good.soon(go_on.set)
    answer = early.read()
    assert answer.header("x-echo") == placeholder
    assert answer.body == placeholder.encode()


@pytest.mark.attack("reflection in disguise")
def test_the_secret_of_earlier_requests_is_known_after_it_was_replaced(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(FIRST_KEY)
    seen: list[str] = []

    async def handler(received: Received, writer: asyncio.StreamWriter) -> None:
        seen.append(received.header("x-api-key") or "")
        log = ", ".join(seen).encode()
        writer.write(whole(b"X-Log: %s\r\n" % log, log))

    good = start_upstream("good.example", handler=handler)
    policy = with_key_in(file)
    owners = {FIRST_KEY: ["good.example"], SECOND_KEY: ["good.example"]}
    scene = start_scene(policy, [good], owners)
    placeholder = scene.placeholder("good")
    wire = scene.tunnel("good.example")
    request = f"GET / HTTP/1.1\nHost: good.example\nX-Api-Key: {placeholder}"
    assert wire.request(request).body == placeholder.encode()
    fresh = file.with_suffix(".new")
    fresh.write_text(SECOND_KEY)
    fresh.replace(file)
    answer = wire.request(request)
    assert seen == [FIRST_KEY, SECOND_KEY]
    assert answer.body == f"{placeholder}, {placeholder}".encode()
    assert answer.header("x-log") == f"{placeholder}, {placeholder}"
    file.unlink()
    anonymous = wire.request("GET / HTTP/1.1\nHost: good.example")
    assert anonymous.body == f"{placeholder}, {placeholder}, ".encode()
    assert anonymous.header("x-log") == f"{placeholder}, {placeholder},"
