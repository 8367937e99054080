"""A WebSocket after its 101: bytes both ways through the flow's filters, until either side ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from understudy.express.stream import PARSED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.express.stream import Stream

    type Pass = Callable[[bytes], bytes]
    """Takes what has come, gives what goes on; raises where nothing may go on any more."""


async def splice(client: Stream, upstream: Stream, *, up: Pass, down: Pass) -> None:
    """Carry until one side has said all and the other was given it. Raises what a Pass raises.

    A side that does not read makes the other wait. Neither connection is closed here.
    """
    ways = {
        asyncio.create_task(_carry(client, upstream, up)),
        asyncio.create_task(_carry(upstream, client, down)),
    }
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    for way in done:
        way.result()


async def _carry(source: Stream, target: Stream, let_pass: Pass) -> None:
    while source.received or await source.wait():
        target.write(let_pass(source.take(PARSED_BYTES)))
        await target.drain()
        if source.received:
            await asyncio.sleep(0)
