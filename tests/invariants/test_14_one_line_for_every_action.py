"""Invariant 14: every client action gives exactly one valid, bounded, ASCII line of verdict."""

from __future__ import annotations

import contextlib
import json
import random
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.client import REFUSED, client_hello
from tests.support.scene import Scene
from tests.support.world import SECRETS, World

MAX_LINE_BYTES = 32768
VERDICTS = {"request.decided", "tunnel.denied", "connection.rejected"}
PARTS = st.sampled_from(
    [b"GET", b"CONNECT", b"POST", b" ", b"/", b"http://", b"good.example", b":443", b"HTTP/1.1",
     b"\r\n", b"\n", b"\r\n\r\n", b"Host: ", b"Content-Length: 5", b"\x00", b"\xff\xfe", b"%00",
     b"\x1b[31m", b"\xe2\x80\xa8", b'"', b"\\", b"{", b"\x16\x03\x01", b"A" * 5000]
)  # fmt: skip


def lines_of(scene: Scene) -> list[dict[str, object]]:
    raw = scene.proxy.audit_file.read_bytes()[scene.written :]
    assert raw.isascii()
    lines = raw.splitlines()
    for line in lines:
        assert len(line) <= MAX_LINE_BYTES
        assert not any(byte < 0x20 or byte == 0x7F for byte in line)
    return [json.loads(line) for line in lines]


def shut_down(scene: Scene) -> None:
    """End what is sent and take what still comes, so that nothing is lost to a reset."""
    for wire in scene.wires:
        with contextlib.suppress(OSError):
            wire.socket.shutdown(socket.SHUT_WR)
            wire.read_until_closed()


@pytest.mark.attack("flood of names")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.lists(PARTS, min_size=1, max_size=12))
def test_any_bytes_to_the_proxy_port_give_one_verdict(world: World, parts: list[bytes]) -> None:
    scene = Scene(world.proxy, world.upstreams, SECRETS)
    data = b"".join(parts)
    with contextlib.suppress(*REFUSED):
        scene.wire().send(data)
    shut_down(scene)
    scene.settle()
    verdicts = [line for line in lines_of(scene) if line["event"] in VERDICTS]
    # White space alone is nothing that a client asked for.
    assert len(verdicts) >= 1, data
    actions = 1 + data.count(b"\r\n\r\n")
    assert len(verdicts) <= actions, (data, verdicts)
    assert {line["verdict"] for line in verdicts} == {"deny"}
    scene.expect_nothing_upstream()


def test_random_bytes_at_every_stage_give_one_verdict_each(world: World) -> None:
    source = random.Random(14)
    for number in range(60):
        scene = Scene(world.proxy, world.upstreams, SECRETS)
        noise = source.randbytes(source.randint(1, 300))
        wire = scene.wire()
        if number % 3:
            assert wire.connect("good.example:443").status == 200
        if number % 3 == 2:
            wire.start_tls("good.example")
        with contextlib.suppress(*REFUSED):
            wire.send(noise)
        scene.settle()
        verdicts = [line for line in lines_of(scene) if line["event"] in VERDICTS]
        assert len(verdicts) == 1, (noise, verdicts)
        scene.expect_nothing_upstream()


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("end", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_a_request_cut_at_any_byte_gives_one_verdict_and_one_end(world: World, end: int) -> None:
    request = (
        b"POST http://plain.example/cut HTTP/1.1\r\nHost: plain.example\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n"
    )
    for cut in range(1, len(request) + 1, 4):
        scene = Scene(world.proxy, world.upstreams, SECRETS)
        scene.wire().send(request[:cut]).socket.shutdown(end)
        if end == socket.SHUT_WR:
            scene.wires[0].read_until_closed()
        scene.settle()
        (verdict,) = [line for line in lines_of(scene) if line["event"] in VERDICTS]
        ends = [line["request_id"] for line in scene.events("request.finished")]
        assert ends == ([verdict["request_id"]] if verdict["verdict"] == "allow" else []), cut


def test_a_broken_handshake_gives_one_verdict(world: World) -> None:
    hello = client_hello("good.example")
    for cut in (1, 2, 5, 6, 50, len(hello) - 1, len(hello)):
        scene = Scene(world.proxy, world.upstreams, SECRETS)
        wire = scene.wire()
        assert wire.connect("good.example:443").status == 200
        wire.send(hello[:cut])
        scene.settle()
        verdicts = [line for line in lines_of(scene) if line["event"] in VERDICTS]
        assert [line["reason"] for line in verdicts] == ["client_closed"], cut


@pytest.mark.attack("flood of names")
def test_hostile_text_in_every_field_stays_one_bounded_ascii_line(scene: Scene) -> None:
    hostile = "\x1b[2J\u2028\u202e\"\\',\u0000".encode().replace(b"\x00", b"")
    with scene.wire() as wire:
        wire.send(b"CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n\r\n" % (hostile.replace(b" ", b"") * 50))
        assert wire.read().status == 400
    for name in (b"Host", b"X-Other"):
        with scene.tunnel("other.example") as wire:
            wire.send(b"GET /%s HTTP/1.1\r\n%s: " % (b"a" * 9000, name) + hostile + b"\r\n\r\n")
            wire.read()
    assert len(scene.verdicts()) == 3
    lines_of(scene)
