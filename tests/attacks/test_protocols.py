"""What is not HTTP never becomes a tunnel of raw bytes."""

from __future__ import annotations

import pytest
from tests.support.scene import Scene

DNS_QUERY = bytes.fromhex(
    "001d1234010000010000000000000464617461046576696c076578616d706c650000010001"
)
NOISE = [
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"\x00\x00\x00\x00",
    b"\xff" * 64,
    DNS_QUERY,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"\n",
    b" GET / HTTP/1.1\r\n\r\n",
    b"EHLO mail.evil.example\r\n",
    b"* OK IMAP\r\n",
    b"\x05\x01\x00",
    b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00",
    b"{\"jsonrpc\": 2}\r\n",
    b"GET\x00/ HTTP/1.1\r\n\r\n",
    b"x" * 100,
]  # fmt: skip


@pytest.mark.attack("not http")
@pytest.mark.parametrize("place", ["proxy port", "tunnel", "tunnel TLS"])
@pytest.mark.parametrize("noise", NOISE)
def test_noise_closes_and_leaves_one_line(scene: Scene, place: str, noise: bytes) -> None:
    wire = scene.wire()
    if place != "proxy port":
        assert wire.connect("good.example:443").status == 200
    if place == "tunnel TLS":
        wire.start_tls("good.example")
    wire.send(noise)
    answered = wire.read_until_closed()
    line = scene.verdict()
    assert line["verdict"] == "deny"
    assert line["reason"] in {"not_http", "bad_target", "bad_header", "bad_method"}, line
    assert answered == b"" or answered.startswith(b"HTTP/1.1 4"), answered
    scene.expect_nothing_upstream()


@pytest.mark.attack("broken off")
@pytest.mark.parametrize("place", ["proxy port", "tunnel", "tunnel TLS"])
def test_half_a_request_and_gone_leaves_one_line(scene: Scene, place: str) -> None:
    wire = scene.wire()
    if place != "proxy port":
        assert wire.connect("good.example:443").status == 200
    if place == "tunnel TLS":
        wire.start_tls("good.example")
    wire.send(b"GET / HT")
    line = scene.verdict()
    assert (line["event"], line["reason"]) == ("connection.rejected", "client_closed")
    scene.expect_nothing_upstream()


@pytest.mark.attack("not http")
def test_a_request_in_single_bytes_is_http(scene: Scene) -> None:
    with scene.tunnel("good.example") as wire:
        for byte in b"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n":
            wire.send(bytes([byte]))
        assert wire.read().status == 200
    scene.expect_allowed("good.example")


@pytest.mark.attack("not http")
@pytest.mark.parametrize("rest", [b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05", b"\x00"])
def test_a_letter_first_does_not_open_a_raw_tunnel(scene: Scene, rest: bytes) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(b"G").send(rest)
        answered = wire.read_until_closed()
    assert answered == b"" or answered.startswith(b"HTTP/1.1 4")
    assert scene.verdict()["verdict"] == "deny"
    scene.expect_nothing_upstream()


@pytest.mark.attack("not http")
def test_raw_bytes_after_an_answer_go_nowhere(scene: Scene) -> None:
    with scene.tunnel("good.example") as wire:
        assert wire.request("GET / HTTP/1.1\nHost: good.example").status == 200
        wire.send(b"\x00\x01\x02 raw bytes after an answer\r\n\r\n")
        wire.read_until_closed()
    assert [line["reason"] for line in scene.verdicts()] == ["allowed", "not_http"]
    assert b"raw bytes" not in scene.bytes_seen("good.example")


@pytest.mark.attack("broken off")
def test_an_unused_tunnel_leaves_one_line(scene: Scene) -> None:
    with scene.wire() as wire:
        assert wire.connect("good.example:443").status == 200
    line = scene.verdict()
    assert (line["event"], line["reason"]) == ("connection.rejected", "client_closed")
    scene.expect_nothing_upstream()
