"""An upstream that is not who it should be, or that breaks off: 502, and the audit says which."""

from __future__ import annotations

import asyncio
import datetime
import re
import socket
import struct
import threading
from collections.abc import Callable

import pytest
import trustme
from tests.support.scene import Scene
from tests.support.upstream import Received, Upstream, answer

SECRET = "sk-real-for-good-only-0123456789"
POLICY = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good"}],
}
TELLING = re.compile(
    rb"127\.0\.0\.1|\[Errno|errno|refused|mitmproxy|certificate|expired|OpenSSL|Traceback"
    rb"|verify|self.signed|hostname|reset|python|\b0x[0-9a-f]",
    re.IGNORECASE,
)


def certificates(ca: trustme.CA) -> dict[str, trustme.LeafCert]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        "another name": ca.issue_cert("evil.example"),
        "a name below": ca.issue_cert("x.good.example"),
        "a name above": ca.issue_cert("example"),
        "an address": ca.issue_cert("127.0.0.1"),
        "common name only": ca.issue_cert("evil.example", common_name="good.example"),
        "expired": ca.issue_cert("good.example", not_after=now - datetime.timedelta(days=1)),
        "not yet valid": ca.issue_cert(
            "good.example",
            not_before=now + datetime.timedelta(days=1),
            not_after=now + datetime.timedelta(days=2),
        ),
        "another authority": trustme.CA().issue_cert("good.example"),
    }


CASES = [
    "another name", "a name below", "a name above", "an address",
    "common name only", "expired", "not yet valid", "another authority",
]  # fmt: skip
DETAILS = {
    "expired": "certificate has expired",
    "not yet valid": "not yet valid",
    "another authority": "authority",
}


def ask(scene: Scene) -> None:
    """A request that fails upstream; the client learns nothing but that."""
    answered = scene.request("good.example", headers=[("X-Api-Key", scene.placeholder("good"))])
    assert (answered.status, answered.reason) == (502, "upstream_failed")
    assert not TELLING.search(answered.head + answered.body)
    assert answered.json["understudy"]["retryable"] is True
    (decided,) = scene.verdicts()
    assert (decided["event"], decided["verdict"]) == ("request.decided", "allow")
    (finished,) = scene.events("request.finished")
    assert finished["request_id"] == answered.header("understudy-request-id")
    assert (finished["status"], finished["reason"]) == (502, "upstream_failed")


def detail(scene: Scene) -> str:
    (finished,) = scene.events("request.finished")
    return str(finished["detail"])


@pytest.mark.attack("bad upstream")
@pytest.mark.parametrize("case", CASES)
def test_upstream_with_a_wrong_certificate_gets_no_byte_of_the_request(
    start_upstream: Callable[..., Upstream],
    start_scene: Callable[..., Scene],
    upstream_ca: trustme.CA,
    case: str,
) -> None:
    good = start_upstream("good.example", certificate=certificates(upstream_ca)[case])
    scene = start_scene(POLICY, [good], {SECRET: []}, environ={"GOOD_KEY": SECRET})
    ask(scene)
    assert scene.bytes_seen("good.example") == b""
    assert DETAILS.get(case, "another name") in detail(scene)


@pytest.mark.attack("bad upstream")
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("after_bytes", [0, 1, 100])
def test_upstream_that_hangs_up_in_the_handshake_is_502(
    start_scene: Callable[..., Scene], after_bytes: int, resets: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(after_bytes) if after_bytes else None
                if resets:
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = server.getsockname()[1]
        policy = POLICY | {"upstream": {"connect_to": {"good.example:443": f"127.0.0.1:{port}"}}}
        scene = start_scene(policy, [], {SECRET: []}, environ={"GOOD_KEY": SECRET})
        ask(scene)
        thread.join(20)
    assert any(word in detail(scene) for word in ("TLS", "closed", "connected"))


@pytest.mark.attack("bad upstream")
def test_upstream_that_does_not_listen_is_502(start_scene: Callable[..., Scene]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    policy = POLICY | {"upstream": {"connect_to": {"good.example:443": f"127.0.0.1:{port}"}}}
    scene = start_scene(policy, [], {SECRET: []}, environ={"GOOD_KEY": SECRET})
    ask(scene)
    assert "connect" in detail(scene)


@pytest.mark.attack("bad upstream")
def test_name_that_does_not_resolve_is_502(start_scene: Callable[..., Scene]) -> None:
    scene = start_scene(POLICY, [], {SECRET: []}, environ={"GOOD_KEY": SECRET})
    ask(scene)
    assert "looked up" in detail(scene)


@pytest.mark.attack("bad upstream")
@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\x00: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00y\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: y\rSet-Cookie: z\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 099 Below\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 E\n\nHTTP/1.1 200 OK\nContent-Length: 6\n\nforged\r\n\r\n",
        b"HTTP/1.1 103 E\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 19) + b"\r\n\r\n",
        b"",
    ],
)  # fmt: skip
def test_upstream_that_does_not_answer_in_http_is_502(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], raw: bytes
) -> None:
    good = start_upstream("good.example", handler=answer(raw, close=True))
    scene = start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})
    ask(scene)
    assert detail(scene)


@pytest.mark.attack("bad upstream")
@pytest.mark.parametrize("chunked", [False, True])
def test_answer_that_breaks_off_is_not_passed_off_as_whole(
    start_upstream: Callable[..., Upstream], start_scene: Callable[..., Scene], *, chunked: bool
) -> None:
    async def break_off(_: Received, writer: asyncio.StreamWriter) -> None:
        framing = b"Transfer-Encoding: chunked\r\n\r\n5\r\n"
        if not chunked:
            framing = b"Content-Length: 50\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"half\n")
        await writer.drain()
        writer.transport.abort()

    good = start_upstream("good.example", handler=break_off)
    scene = start_scene(POLICY, [good], {SECRET: ["good.example"]}, environ={"GOOD_KEY": SECRET})
    with scene.tunnel("good.example") as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n")
        got = wire.read_until_closed()
    assert got.startswith(b"HTTP/1.1 200 OK")
    assert not got.endswith(b"0\r\n\r\n")
    scene.settle()
    (finished,) = scene.events("request.finished")
    assert (finished["status"], finished["reason"]) == (200, "upstream_failed")
    assert len(scene.verdicts()) == 1
