"""What never becomes a request gives exactly one connection.rejected; silence gives none."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import warnings
from collections.abc import Callable

import pytest
from tests.support.client import REFUSED, Wire, client_hello
from tests.support.scene import Scene

CONNECT = b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: good.example\r\n"


def tls_client(scene: Scene) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=scene.proxy.ca_cert)


def with_old_tls(scene: Scene) -> ssl.SSLContext:
    context = tls_client(scene)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def without_a_common_cipher(scene: Scene) -> ssl.SSLContext:
    context = tls_client(scene)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    return context


def without_our_authority(_: Scene) -> ssl.SSLContext:
    return ssl.create_default_context()


def with_http2_only(scene: Scene) -> ssl.SSLContext:
    context = tls_client(scene)
    context.set_alpn_protocols(["h2"])
    return context


def send_and_wait(wire: Wire, data: bytes) -> None:
    with contextlib.suppress(*REFUSED):
        wire.send(data)
        wire.read_until_closed()


def send_and_finish(wire: Wire, data: bytes) -> None:
    """End the sending side properly."""
    with contextlib.suppress(*REFUSED):
        wire.send(data)
        wire.socket.shutdown(socket.SHUT_WR)
        wire.read_until_closed()


def send_and_close(wire: Wire, data: bytes) -> None:
    wire.send(data).close()


def send_and_reset(wire: Wire, data: bytes) -> None:
    wire.send(data).reset()


type End = Callable[[Wire, bytes], None]
ENDS = [send_and_finish, send_and_close, send_and_reset]


def expect_one(scene: Scene, reasons: set[str]) -> None:
    line = scene.verdict()
    assert line["event"] == "connection.rejected", line
    assert line["verdict"] == "deny"
    assert line["reason"] in reasons, line
    scene.expect_nothing_upstream()


NO_HTTP = {
    "white space": b" \r\n\r\n",
    "an empty line": b"\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
    "binary": bytes(range(256)),
    "socks5": b"\x05\x01\x00",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "half a TLS record": b"\x16\x03\x01\x00",
    "a reply": b"\x00HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("place", ["the proxy's port", "a tunnel", "a tunnel's TLS"])
@pytest.mark.parametrize("name", NO_HTTP)
def test_bytes_that_are_no_http_are_told_of_once(scene: Scene, name: str, place: str) -> None:
    wire = scene.wire()
    if place != "the proxy's port":
        assert wire.connect("good.example:443").status == 200
    if place == "a tunnel's TLS":
        wire.start_tls("good.example")
    send_and_finish(wire, NO_HTTP[name])
    expect_one(scene, {"not_http", "client_closed", "nested_tls"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "sent", [b"G", b"GET / HT", GET, GET + b"X: y\r\n", b"CONNECT good.example:443 HTTP/1.1\r\n"]
)
def test_a_head_that_breaks_off_is_told_of_once(scene: Scene, sent: bytes, end: End) -> None:
    end(scene.wire(), sent)
    if end is send_and_reset and scene.verdicts() == []:
        return  # A reset takes with it what was not read yet: nothing was ever seen.
    expect_one(scene, {"client_closed"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01", client_hello("good.example")[:50]])
def test_a_tunnel_that_breaks_off_is_told_of_once(scene: Scene, sent: bytes, end: End) -> None:
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    end(wire, sent)
    expect_one(scene, {"client_closed"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHo"])
def test_a_tunnel_that_breaks_off_inside_its_tls_is_told_of_once(
    scene: Scene, sent: bytes, end: End
) -> None:
    end(scene.tunnel("good.example"), sent)
    expect_one(scene, {"client_closed"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize(
    "make_context",
    [with_old_tls, without_a_common_cipher, without_our_authority],
)
def test_a_handshake_that_fails_is_told_of_once(
    scene: Scene, make_context: Callable[[Scene], ssl.SSLContext]
) -> None:
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        make_context(scene).wrap_socket(wire.socket, server_hostname="good.example")
    expect_one(scene, {"client_closed"})


@pytest.mark.attack("broken off")
def test_a_client_that_wants_http2_only_gets_no_http2(scene: Scene) -> None:
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    wire.socket = with_http2_only(scene).wrap_socket(wire.socket, server_hostname="good.example")
    send_and_finish(wire, NO_HTTP["http/2"])
    expect_one(scene, {"not_http"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("behind", [NO_HTTP["ssh"], b"\x00" * 100, b"\x16\x03\x01\x00\x05aaaaa"])
def test_garbage_in_the_same_packet_as_connect_is_told_of_once(scene: Scene, behind: bytes) -> None:
    send_and_wait(scene.wire(), CONNECT + behind)
    expect_one(scene, {"not_http", "client_closed"})


@pytest.mark.attack("broken off")
def test_tls_to_the_proxys_own_port_is_told_of_once(scene: Scene) -> None:
    send_and_wait(scene.wire(), client_hello("good.example"))
    expect_one(scene, {"not_http"})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("place", ["the proxy's port", "a tunnel's TLS"])
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (GET + b"X: " + b"a" * 100_000, "header_too_large"),
        (b"GET /" + b"a" * 100_000, "header_too_large"),
        (b"GET / HTTP/1.1\nHost: good.example\n\n", "bad_header"),
        (GET + b"X: a\n\r\n\r\n", "bad_header"),
    ],
)
def test_a_head_that_cannot_be_one_is_told_of_once(
    scene: Scene, place: str, sent: bytes, reason: str
) -> None:
    wire = scene.wire() if place == "the proxy's port" else scene.tunnel("good.example")
    send_and_wait(wire, sent)
    expect_one(scene, {reason, "not_http"} if b"\nHost" in sent else {reason})


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("end", [Wire.close, Wire.reset])
def test_a_visitor_that_says_nothing_leaves_nothing(
    scene: Scene, end: Callable[[Wire], None]
) -> None:
    end(scene.wire())
    assert scene.verdicts() == []


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("sent", [b"", b"G", GET, NO_HTTP["ssh"]])
def test_what_follows_a_request_is_told_of_apart_from_it(scene: Scene, sent: bytes) -> None:
    wire = scene.tunnel("other.example")
    assert wire.request(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").status == 200
    send_and_finish(wire, sent)
    lines = scene.verdicts()
    assert lines[0]["event"] == "request.decided"
    assert [line["event"] for line in lines[1:]] == (["connection.rejected"] if sent else [])


BEFORE = {
    "a denied tunnel": (
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        403,
    ),
    "a request": (b"GET http://plain.example/ HTTP/1.1\r\nHost: plain.example\r\n\r\n", 200),
}


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("before", BEFORE)
def test_an_unused_tunnel_behind_something_else_is_told_of_too(scene: Scene, before: str) -> None:
    sent, status = BEFORE[before]
    wire = scene.wire()
    assert wire.request(sent).status == status
    assert wire.connect("good.example:443").status == 200
    wire.close()
    lines = scene.verdicts()
    assert len(lines) == 2, lines
    assert (lines[1]["event"], lines[1]["reason"]) == ("connection.rejected", "client_closed")
    assert lines[1]["http"]["host"] == "good.example"


@pytest.mark.attack("broken off")
def test_clients_that_are_gone_before_they_are_accepted_are_no_failure(
    scene: Scene, engine: str
) -> None:
    process = scene.proxy.process
    process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        scene.wire().send(b"GET / HTTP/1.1\r\n").reset()
    process.send_signal(signal.SIGCONT)
    with scene.tunnel("other.example") as wire:
        assert wire.request(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").status == 200
    # mitmproxy's engine still learns who it was, and reads what was sent before the reset.
    reasons = {line["reason"] for line in scene.verdicts()}
    assert reasons == ({"allowed", "client_closed"} if engine == "mitmproxy" else {"allowed"})
    failed = 'understudy_hook_errors_total{hook="client_connected"}'
    assert scene.proxy.metrics().get(failed, 0) == 0
    assert "client_connected" not in scene.proxy.log
