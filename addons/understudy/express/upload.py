"""The request on its way up: head and body in one write where the body is at hand."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from understudy.express.messages import LAST_CHUNK, apply_filter, chunk, request_head
from understudy.reasons import Reason
from understudy.stages.exchange import find_exchange
from understudy.wire.chunked import ChunkError

if TYPE_CHECKING:
    from understudy.express.pool import Upstream
    from understudy.express.transfer import Transfer


class Upload:
    """Sends one request; a body that is still coming is sent on by a task of its own."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._flow = transfer.flow
        self._body_limit = transfer.limits.max_request_body_bytes
        self._body_bytes = 0
        self._first = b""
        self._streams = bool(transfer.flow.request.stream)
        self.is_whole = not self._streams or transfer.body.at_hand()
        """All of it went up in the first write, so it can be sent again."""
        self.pump: asyncio.Task[None] | None = None
        """What sends the rest of the body."""

    async def begin(self, upstream: Upstream) -> None:
        """Send the head, and the body as far as it is there. Raises Broken."""
        self._first = request_head(self._flow.request, self._transfer.exchange())
        if self.is_whole:
            self._first += await self._whole_body()
        upstream.stream.write(self._first)
        if not self.is_whole:
            self.pump = asyncio.create_task(self._send_rest(upstream))

    def repeat(self, upstream: Upstream) -> None:
        """Send the same bytes on another connection."""
        upstream.stream.write(self._first)

    def is_done(self) -> bool:
        """Whether all of the request has gone up."""
        return self.pump is None or self.pump.done()

    async def end(self) -> None:
        """Stop sending."""
        if self.pump is not None and not self.pump.done():
            self.pump.cancel()
            await asyncio.wait([self.pump])

    async def _whole_body(self) -> bytes:
        """All of the body; the end of the request is told to the hooks."""
        flow = self._flow
        if not self._streams:
            return flow.request.raw_content or b""
        data = self._transfer.body.take_whole()
        if data:
            data = b"".join(self.filter(data))
        await self._tell_the_end()
        return data

    async def _send_rest(self, upstream: Upstream) -> None:
        flow, stream = self._flow, upstream.stream
        chunked = "chunked" in flow.request.headers.get("transfer-encoding", "").lower()
        try:
            while data := await self._transfer.body.read():
                for piece in self.filter(data):
                    stream.write(chunk(piece) if chunked else piece)
                await stream.drain()
            await self._tell_the_end()
            if chunked:
                stream.write(LAST_CHUNK)
        except Exception as error:  # noqa: BLE001 - the download finds out what it was
            exchange = find_exchange(flow)
            if exchange is not None and isinstance(error, ChunkError):
                exchange.refuse(Reason.BAD_HEADER)
            # Ends the reading side too, which then finds the refusal or the client gone.
            stream.abort()

    def filter(self, data: bytes) -> list[bytes]:
        """What goes up of a piece of the body. Raises Broken."""
        self._body_bytes += len(data)
        if self._body_limit is not None and self._body_bytes > self._body_limit:
            self._transfer.exchange().refuse(Reason.BODY_TOO_LARGE)
        pieces = apply_filter(self._flow.request.stream, data)
        self._transfer.exchange()
        return pieces

    async def _tell_the_end(self) -> None:
        self._flow.request.timestamp_end = time.time()
        await self._transfer.express.hooks.call("request", self._flow)
        self._transfer.exchange()
