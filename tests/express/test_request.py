"""A request's body as it comes: others have their turn while it is parsed."""

from __future__ import annotations

import asyncio

from understudy.express.outbox import Outbox
from understudy.express.request import RequestBody
from understudy.express.stream import PARSED_BYTES, Stream
from understudy.wire.head import parse_head

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET / HTTP/1.1\r\n"


def test_a_body_in_tiny_chunks_is_parsed_in_turns() -> None:
    async def run() -> tuple[bytes, bytes, int]:
        head = parse_head(HEAD, 10)
        assert head is not None
        stream = Stream(Outbox())
        stream.received += b"1\r\na\r\n" * PARSED_BYTES + b"0\r\n\r\n" + NEXT
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        others = asyncio.create_task(take_turns())
        body = await RequestBody(stream, head).read_whole()
        others.cancel()
        return body, bytes(stream.received), turns

    body, behind, turns = asyncio.run(run())
    assert (body, behind) == (b"a" * PARSED_BYTES, NEXT)
    assert turns >= 6
