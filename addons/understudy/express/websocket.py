"""A WebSocket after its 101: spliced, and told of as one request that lasts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy.flow import Error

from understudy.express.broken import Broken
from understudy.express.messages import apply_filter
from understudy.express.splice import splice
from understudy.reasons import Reason
from understudy.stages.record import CLIENT_DISCONNECTED

if TYPE_CHECKING:
    from understudy.express.pool import Upstream
    from understudy.express.transfer import Transfer
    from understudy.express.upload import Upload


async def carry_websocket(transfer: Transfer, upload: Upload, upstream: Upstream) -> None:
    """Splice until either side ends; the hooks hear of that as of a response's end."""
    flow, client, hooks = transfer.flow, transfer.client, transfer.express.hooks
    response, websocket = flow.response, transfer.exchange().websocket
    if response is None or websocket is None:
        raise Broken("refused", Reason.INTERNAL_ERROR)

    def pass_up(data: bytes) -> bytes:
        return b"".join(upload.filter(data))

    def pass_down(data: bytes) -> bytes:
        pieces = apply_filter(response.stream, data)
        transfer.exchange()
        return b"".join(pieces)

    await splice(client, upstream.stream, up=pass_up, down=pass_down)
    if websocket.closed:
        response.timestamp_end = time.time()
        await hooks.call("response", flow)
    else:
        text = "the WebSocket ended without a close frame"
        flow.error = Error(CLIENT_DISCONNECTED if client.ended else text)
        await hooks.call("error", flow)
    transfer.upstream = None
    upstream.close_soon()
