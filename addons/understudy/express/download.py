"""The answer on its way down, as it comes: its head, then each piece of its body at once."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from understudy.express.broken import Broken
from understudy.express.messages import (
    LAST_CHUNK,
    apply_filter,
    chunk,
    make_headers,
    response_head,
)
from understudy.express.response import BadResponseError, ResponseReader
from understudy.express.websocket import carry_websocket
from understudy.reasons import Reason
from understudy.stages.record import CLIENT_DISCONNECTED
from understudy.stages.scrub import clean_interim
from understudy.stages.upgrade import SWITCHING_PROTOCOLS
from understudy.wire.fields import BODYLESS, FRAMING, OF_THE_HOP
from understudy.wire.head import logs_connection_in

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.express.pool import Upstream
    from understudy.express.transfer import Transfer
    from understudy.express.upload import Upload

_FIRST_FINAL_STATUS = 200
_NO_CONTENT = 204
_CHUNKED = (b"Transfer-Encoding", b"chunked")
_CLOSE = (b"Connection", b"close")


class Download:
    """Relays one response. Raises Broken and BadResponseError."""

    def __init__(self, transfer: Transfer, upload: Upload, upstream: Upstream) -> None:
        self._transfer = transfer
        self._upload = upload
        self._upstream = upstream
        self._flow = transfer.flow
        self._client = transfer.client
        self._logs_in = transfer.head.logs_connection_in
        """Whether the connection may be logged in as somebody from now on."""
        self._head_due: float | None = None
        self._reader = ResponseReader(upstream.stream, head_request=transfer.head.method == "HEAD")

    async def run(self) -> bool:
        """Do all of it; whether the client's connection can go on."""
        flow, hooks, client = self._flow, self._transfer.express.hooks, self._client
        # A client that goes away ends the upstream's work; one that still sends is noticed there.
        client.on_end = self._upstream.stream.abort if self._upload.pump is None else None
        try:
            if client.failed:
                raise ConnectionError(CLIENT_DISCONNECTED)  # too early for that to be noticed
            response = await self._read_final_head()
            if response.data.status_code == SWITCHING_PROTOCOLS and client.received:
                # It cannot know yet what it speaks to (RFC 6455 4.1).
                exchange = self._transfer.exchange()
                if exchange.websocket is not None:
                    exchange.refuse(Reason.BAD_HEADER, "the client spoke before the 101")
                    self._transfer.exchange()
            flow.response = response
            await hooks.call("responseheaders", flow)
            self._check()
            if flow.response.status_code == SWITCHING_PROTOCOLS:
                client.on_end = None
                self._send(response_head(flow.response))
                await carry_websocket(self._transfer, self._upload, self._upstream)
                return False
            return await self._relay(flow.response)
        finally:
            client.on_end = None
            self._reader.close()
            if flow.response is not None:
                flow.response.stream = False  # a filter holds its flow; see ResponseReader.close

    async def _read_final_head(self) -> http.Response:
        while True:
            response = await self._read_head()
            status = response.data.status_code
            if status >= _FIRST_FINAL_STATUS or status == SWITCHING_PROTOCOLS:
                return response
            if not self._transfer.head.minor_version:
                continue  # RFC 9110 15.2: HTTP/1.0 knows no interim responses
            clean_interim(self._transfer.exchange(), response)
            self._client.write(response_head(response))

    async def _read_head(self) -> http.Response:
        """The next head; the clock runs from the end of the request, and it may come before."""
        pump = self._upload.pump
        try:
            if pump is None or pump.done():
                return await self._reader.read_head(self._deadline())
            reading = asyncio.ensure_future(self._reader.read_head())
            try:
                await asyncio.wait([reading, pump], return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    return reading.result()
                async with asyncio.timeout_at(self._deadline()):
                    return await reading
            finally:
                reading.cancel()
        except TimeoutError:
            raise Broken("timed out", Reason.UPSTREAM_TIMEOUT) from None

    def _deadline(self) -> float:
        """When the final head must be there, whatever comes before it, on the loop's clock."""
        if self._head_due is None:
            seconds = self._transfer.limits.first_byte_timeout_seconds
            self._head_due = asyncio.get_running_loop().time() + seconds
        return self._head_due

    async def _relay(self, response: http.Response) -> bool:
        transfer, reader, client = self._transfer, self._reader, self._client
        bodyless = transfer.head.method == "HEAD" or response.data.status_code in BODYLESS
        chunked = self._frame(response, bodyless=bodyless)
        pending = response_head(response)
        if not bodyless and not reader.has_more():
            # Who waits for the head alone, as the reader of a stream does, has it now.
            self._send(pending)
            pending = b""
        while not bodyless and (data := await reader.read_body()):
            pending += self._make_pieces(response.stream, data, chunked=chunked)
            if reader.is_whole():
                continue  # the end goes out in the same write
            self._send(pending)
            pending = b""
            await client.drain()
        if not bodyless:
            pending += self._make_pieces(response.stream, b"", chunked=chunked)
            if chunked:
                pending += LAST_CHUNK
        response.timestamp_end = time.time()
        await transfer.express.hooks.call("response", self._flow)
        self._check()
        self._send(pending)
        await client.drain()
        finished = self._upload.is_done() and transfer.body.done
        if finished and reader.may_reuse() and not self._logs_in:
            transfer.upstream = None
            transfer.express.pool.give_back(self._upstream)
        return transfer.keep_alive and not client.ended

    def _send(self, answer: bytes) -> None:
        if answer:
            self._transfer.answering = True
            self._client.write(answer)

    def _make_pieces(self, stream: object, data: bytes, *, chunked: bool) -> bytes:
        pieces = apply_filter(stream, data)
        self._transfer.exchange()
        return b"".join(map(chunk, pieces) if chunked else pieces)

    def _check(self) -> None:
        if not self._flow.live:
            raise Broken("killed")

    def _frame(self, response: http.Response, *, bodyless: bool) -> bool:
        """Set the framing for the client; whether the body goes in chunks."""
        transfer = self._transfer
        takes_chunks = transfer.head.minor_version == 1
        chunked = has_length = False
        fields = []
        for field in response.data.headers.fields:
            name = field[0].lower()
            if name in OF_THE_HOP:
                continue
            if name in FRAMING and response.data.status_code == _NO_CONTENT:
                continue
            if name == b"transfer-encoding":
                if chunked or field[1].lower() != b"chunked":
                    raise BadResponseError("a transfer coding nobody asked for from server")
                # http.client reads chunks behind a 304 that says so: the next answer's bytes.
                if bodyless or not takes_chunks:
                    continue
                chunked = True
            elif name == b"www-authenticate":
                self._logs_in = self._logs_in or logs_connection_in(field[1])
            has_length = has_length or name == b"content-length"
            fields.append(field)
        if not bodyless and not chunked and not has_length:
            if takes_chunks:
                fields.append(_CHUNKED)
                chunked = True
            else:
                transfer.keep_alive = False
        if not transfer.keep_alive:
            fields.append(_CLOSE)
        response.data.headers = make_headers(tuple(fields))
        return chunked
