"""A network cuts TLS records where it likes: what comes in parts is what was sent, no more."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
import trustme
from tests.support.records import PiecesWire
from tests.support.scene import Scene

from understudy.express.outbox import Outbox
from understudy.express.stream import Stream

HOST = "good.example"
BODY = b"0123456789abcdef" * 500


def head(scene: Scene, *lines: str, method: str = "POST") -> bytes:
    written = [f"{method} /x HTTP/1.1", f"Host: {HOST}", *lines]
    written.append(f"X-Api-Key: {scene.placeholder('good')}")
    return "\r\n".join(written).encode() + b"\r\n\r\n"


def test_a_head_in_parts_of_a_record_is_one_request(scene: Scene) -> None:
    with PiecesWire(scene, HOST).wire:
        pass
    pieces = PiecesWire(scene, HOST)
    for _ in range(2):
        pieces.send(head(scene, method="GET"))
        assert pieces.wire.read().status == 200
    pieces.wire.close()
    assert [line["reason"] for line in scene.verdicts()] == ["client_closed", "allowed", "allowed"]
    assert len(scene.seen(HOST)) == 2


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("together", [True, False])
def test_a_body_in_parts_of_records_goes_up_whole(
    scene: Scene, framing: str, together: bool
) -> None:
    if framing == "length":
        start, body = head(scene, f"Content-Length: {len(BODY)}"), BODY
    else:
        start = head(scene, "Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    pieces = PiecesWire(scene, HOST)
    for part in [start + body] if together else [start, body[:3000], body[3000:]]:
        pieces.send(part, 4)
    assert pieces.wire.read().status == 200
    (received,) = scene.expect_allowed(HOST)
    assert received.body == BODY


def test_no_wait_ends_before_there_is_something_to_take(upstream_ca: trustme.CA) -> None:
    """On either side of a connection: a record is taken whole or not at all."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    upstream_ca.issue_cert(HOST).configure_cert(served)
    trusting = ssl.create_default_context()
    upstream_ca.configure_trust(trusting)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = served.wrap_bio(incoming, outgoing, server_side=True)

    class Line(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            incoming.write(data)

        def is_closing(self) -> bool:
            return False

        def get_write_buffer_size(self) -> int:
            return 0

    async def run() -> list[bytes]:
        stream = Stream(Outbox())
        stream.connection_made(Line())
        shaking = asyncio.create_task(stream.start_tls(trusting, server=False, name=HOST))
        while not shaking.done():
            await asyncio.sleep(0)
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            # Tickets and all, byte by byte.
            for byte in outgoing.read():
                stream.data_received(bytes([byte]))
        await shaking
        taken: list[bytes] = []

        async def take() -> None:
            while await stream.wait():
                taken.append(stream.take())

        taking = asyncio.create_task(take())
        for text in (b"first", b"second"):
            peer.write(text)
            for byte in outgoing.read():
                stream.data_received(bytes([byte]))
                await asyncio.sleep(0)
        stream.connection_lost(None)
        await taking
        return taken

    assert asyncio.run(run()) == [b"first", b"second"]
