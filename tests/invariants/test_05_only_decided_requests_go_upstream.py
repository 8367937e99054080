"""Invariants 5 and 6: every upstream byte belongs to one decided request, framed anew."""

from __future__ import annotations

import random

import pytest
from tests.support.scene import Scene


@pytest.mark.attack("smuggling")
def test_what_upstream_reads_is_exactly_the_decided_requests(scene: Scene) -> None:
    bodies = [b"", b"x", b"GET /smuggled HTTP/1.1\r\n\r\n", b"0\r\n\r\n", bytes(range(256)) * 300]
    with scene.tunnel("other.example") as wire:
        for number, body in enumerate(bodies):
            answer = wire.request(
                f"POST /{number} HTTP/1.1\nHost: other.example\nContent-Length: {len(body)}", body
            )
            assert answer.status == 200
    seen = scene.expect_allowed("other.example", len(bodies))
    assert [received.body for received in seen] == bodies
    assert [received.target for received in seen] == [f"/{n}" for n in range(len(bodies))]
    assert scene.bytes_seen("other.example") == b"".join(r.raw_head + r.body for r in seen)
    lines = scene.events("request.decided")
    assert [line["http"]["path"] for line in lines] == [r.target for r in seen]


@pytest.mark.attack("chunk tricks")
def test_chunks_are_framed_anew(scene: Scene) -> None:
    """Chunk extensions and odd sizes are the client's own; none of them is relayed."""
    with scene.tunnel("other.example") as wire:
        wire.send(
            b"POST / HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"00003;smuggle=GET\r\nabc\r\n5;x\r\ndefgh\r\n000;last\r\n\r\n"
        )
        assert wire.read().status == 200
    (received,) = scene.expect_allowed("other.example")
    assert received.body == b"abcdefgh"
    assert b"smuggle" not in scene.bytes_seen("other.example")
    assert received.header("transfer-encoding") == "chunked"


@pytest.mark.attack("not http")
def test_one_decision_is_one_request_whatever_follows_in_the_tunnel(scene: Scene) -> None:
    source = random.Random(5)
    for _ in range(20):
        noise = source.randbytes(40)
        with scene.tunnel("other.example") as wire:
            wire.send(b"GET /one HTTP/1.1\r\nHost: other.example\r\n\r\n" + noise)
            wire.read_until_closed()
    scene.settle()
    assert len(scene.seen("other.example")) <= 20
    assert all(received.target == "/one" for received in scene.seen("other.example"))
    heads = b"".join(received.raw_head for received in scene.seen("other.example"))
    assert scene.bytes_seen("other.example") == heads
