"""Chunked request bodies on mitmproxy's engine, read by the one grammar that express has too.

h11's own reader ends a body at a bare LF and takes any byte in an extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from h11._readers import ChunkedReader

from understudy.wire import chunked

if TYPE_CHECKING:
    from h11._receivebuffer import ReceiveBuffer


class ChunkedBody(ChunkedReader):
    """Stands in for h11's."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = chunked.ChunkedReader()

    def __call__(self, received: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        """The next of the body, or its end; raises h11.RemoteProtocolError where it is none."""
        data = b"" if self._reader.done else self._feed(received)
        if data:
            return h11.Data(data=data)
        return h11.EndOfMessage() if self._reader.done else None

    def _feed(self, received: ReceiveBuffer) -> bytes:
        try:
            data = self._reader.feed(bytes(received.maybe_extract_at_most(len(received)) or b""))
        except chunked.ChunkError as error:
            raise h11.RemoteProtocolError(str(error)) from None
        if self._reader.done:
            received += self._reader.rest
        return data
