"""The ClientHello and the handshake as weapons: one name, one handshake, nothing before it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

import pytest
import trustme
from tests.support.client import REFUSED, Wire, client_hello
from tests.support.scene import Scene

from understudy.express.outbox import Outbox
from understudy.express.stream import Stream

HOST = "good.example"


def with_server_names(names: list[tuple[int, bytes]], copies: int = 1) -> bytes:
    """A real ClientHello whose server name extension is replaced by ``names`` (type, name)."""
    listed = b"".join(struct.pack(">BH", kind, len(name)) + name for kind, name in names)
    extension = struct.pack(">HHH", 0, len(listed) + 2, len(listed)) + listed
    record = client_hello(HOST)
    body = record[9:]
    at = 34
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    left, kept = body[at + 2 :], b""
    while left:
        kind, size = struct.unpack(">HH", left[:4])
        kept += left[: 4 + size] if kind != 0 else b""
        left = left[4 + size :]
    extensions = extension * copies + kept
    body = body[:at] + struct.pack(">H", len(extensions)) + extensions
    handshake = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


def in_records(hello: bytes, size: int) -> bytes:
    """The same ClientHello, cut into records of ``size`` bytes."""
    body = hello[5:]
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


@pytest.mark.attack("handshake tricks")
def test_the_rewritten_hello_is_a_good_one(scene: Scene) -> None:
    """What is refused below is refused for its names."""
    wire = tunnel(scene)
    wire.send(with_server_names([(0, HOST.encode())]))
    assert wire.socket.recv(1) == b"\x16"
    scene.settle()


def tunnel(scene: Scene) -> Wire:
    wire = scene.wire()
    assert wire.connect(f"{HOST}:443").status == 200
    return wire


@pytest.mark.attack("handshake tricks")
@pytest.mark.parametrize(
    "names",
    [
        [(0, b"good.example"), (0, b"evil.example")],
        [(0, b"evil.example"), (0, b"good.example")],
        [(0, b"good.example"), (1, b"evil.example")],
        [(1, b"good.example")],
        [(0, b"good.example\0.evil.example")],
        [(0, b"good.example ")],
        [(0, b"good.example:443")],
        [(0, b"*.example")],
        [(0, b"")],
        [],
        [(0, b"good\xe3\x80\x82example")],
        [(0, b"evil.example#good.example")],
        [(0, b"\xff\xfe")],
        [(0, b"a" * 5000)],
        [(0, b"good.example..")],
        [(0, b"evilgood.example")],
        [(0, b"xn--good.example")],
    ],
)
def test_a_server_name_extension_names_the_tunnels_host_or_the_hello_is_refused(
    scene: Scene, names: list[tuple[int, bytes]]
) -> None:
    wire = tunnel(scene).send(with_server_names(names))
    got = wire.read_until_closed()
    assert b"\x16" not in got[:1], "a handshake has begun"
    line = scene.verdict()
    assert line["event"] == "connection.rejected"
    assert line["reason"] in {"sni_mismatch", "not_http"}, line
    scene.expect_nothing_upstream()


@pytest.mark.attack("handshake tricks")
@pytest.mark.parametrize("spelling", [b"GOOD.example", b"good.example.", b"Good.Example."])
def test_other_spellings_of_the_tunnels_host_are_that_host(scene: Scene, spelling: bytes) -> None:
    wire = tunnel(scene).send(with_server_names([(0, spelling)]))
    assert wire.socket.recv(1) == b"\x16"
    scene.settle()


@pytest.mark.attack("handshake tricks")
def test_a_hello_in_small_records_is_read_like_a_whole_one(scene: Scene) -> None:
    wire = tunnel(scene).send(in_records(with_server_names([(0, b"evil.example")]), 64))
    scene.expect_closed(wire, "sni_mismatch")


@pytest.mark.attack("handshake tricks")
def test_a_hello_without_end_is_refused(scene: Scene) -> None:
    piece = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + b"\0" * 0x3FFC
    wire = tunnel(scene)
    try:
        for _ in range(1000):
            wire.send(piece)
    except REFUSED:
        pass
    wire.read_until_closed()
    assert scene.verdict()["event"] == "connection.rejected"
    scene.expect_nothing_upstream()


@pytest.mark.attack("handshake tricks")
@pytest.mark.parametrize("alpn", [["h2"], ["h2", "http/1.1"], ["http/1.0"], ["spdy/3", "foo"]])
def test_no_other_protocol_is_agreed_upon(scene: Scene, alpn: list[str]) -> None:
    wire = tunnel(scene)
    context = ssl.create_default_context(cafile=wire.ca_file)
    context.set_alpn_protocols(alpn)
    try:
        tls = context.wrap_socket(wire.socket, server_hostname=HOST)
    except REFUSED:
        scene.settle()
        return
    wire.socket = tls
    assert tls.selected_alpn_protocol() in {None, "http/1.1"}
    answer = wire.request(f"GET / HTTP/1.1\nHost: {HOST}")
    assert answer.status == 200


@pytest.mark.attack("handshake tricks")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_of_one_host_opens_no_session_with_another(
    scene: Scene, version: ssl.TLSVersion
) -> None:
    wire = scene.wire()
    assert wire.connect("good.example:443").status == 200
    context = ssl.create_default_context(cafile=wire.ca_file)
    context.minimum_version = context.maximum_version = version
    wire.socket = context.wrap_socket(wire.socket, server_hostname="good.example")
    assert wire.request("GET / HTTP/1.1\nHost: good.example").status == 200
    session = wire.socket.session
    assert session is not None
    other = scene.wire()
    assert other.connect("other.example:443").status == 200
    other.socket = context.wrap_socket(
        other.socket, server_hostname="other.example", session=session
    )
    assert not other.socket.session_reused
    subject = dict(pair for (pair,) in other.socket.getpeercert()["subject"] or ())
    names = other.socket.getpeercert()["subjectAltName"]
    assert ("DNS", "other.example") in names, (subject, names)
    assert other.request("GET / HTTP/1.1\nHost: good.example").reason == "host_mismatch"
    scene.settle()


def carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def openssl(scene: Scene, send: bytes, *options: str) -> str:
    """What `openssl s_client` says of a handshake in a tunnel, after sending ``send``."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed: nothing else renegotiates or sends early data")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        command = [program, "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST]
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with (
            contextlib.closing(door.accept()[0]) as caller,
            tunnel(scene).socket as inside,
            process,
        ):
            inside.settimeout(None)
            ways = [
                threading.Thread(target=carry, args=pair)
                for pair in ((caller, inside), (inside, caller))
            ]
            for way in ways:
                way.start()
            said = process.communicate(send, timeout=60)[0]
            for end in (caller, inside):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for way in ways:
                way.join(60)
    return said.decode("latin-1")


@pytest.mark.attack("handshake tricks")
@pytest.mark.engine("express")
def test_renegotiation_is_refused(scene: Scene) -> None:
    said = openssl(scene, b"R\n", "-tls1_2")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said or "error" in said, said
    scene.settle()
    scene.expect_nothing_upstream()


@pytest.mark.attack("handshake tricks")
@pytest.mark.engine("express")  # the other one keeps the connection, and s_client waits for its end
def test_no_request_is_taken_from_early_data(scene: Scene, tmp_path: Path) -> None:
    request, kept = tmp_path / "request", tmp_path / "session"
    request.write_text(f"GET /early HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
    openssl(scene, request.read_bytes(), "-tls1_3", "-sess_out", str(kept), "-ign_eof")
    if not kept.exists():
        pytest.skip("this openssl kept no session")
    early = ("-sess_in", str(kept), "-early_data", str(request))
    said = openssl(scene, b"Q\n", "-tls1_3", *early)
    assert "Early data was accepted" not in said
    scene.settle()
    assert all(seen.target != "/early" for seen in scene.seen(HOST)[1:])


class _Deaf(asyncio.Transport):
    """A transport that takes everything."""

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.mark.attack("handshake tricks")
def test_what_came_in_the_clear_never_stands_behind_the_handshake(upstream_ca: trustme.CA) -> None:
    """However much arrives with the ClientHello, all of it goes through TLS, and fails there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    upstream_ca.issue_cert(HOST).configure_cert(context)

    async def shake() -> bytes:
        stream = Stream(Outbox())
        stream.connection_made(_Deaf())
        stream.data_received(client_hello(HOST))
        stream.data_received(b"GET /clear HTTP/1.1\r\nHost: good.example\r\n\r\n" * 20_000)
        with pytest.raises(OSError):  # noqa: PT011 - whatever OpenSSL makes of it
            await stream.start_tls(context, server=True, name=None)
        return bytes(stream.received)

    assert asyncio.run(shake()) == b""
