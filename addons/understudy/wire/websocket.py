"""The WebSocket handshake (RFC 6455 4): which requests are one, and which answers accept it."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from understudy.wire.fields import FRAMING
from understudy.wire.frames import FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KEY_BYTES = 16
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ONCE = {b"upgrade": b"websocket", b"sec-websocket-version": b"13"}
# RFC 9110 8.6 and 6.1: a 1xx has neither.


@dataclass(slots=True)
class WebSocket:
    """One WebSocket, from its handshake on."""

    key: bytes
    """``Sec-WebSocket-Key`` as the client sent it."""
    client: FrameReader = field(default_factory=lambda: FrameReader(masked=True))
    server: FrameReader = field(default_factory=lambda: FrameReader(masked=False))

    @property
    def closed(self) -> bool:
        """Whether either side has said that it closes: what ends now has not broken off."""
        return self.client.closed or self.server.closed


def requested_key(headers: Mapping[bytes, Sequence[bytes]]) -> bytes | None:
    """The key of a proper opening handshake; None for any other request.

    ``headers`` are a request's by lower-case name. Method, version and body are the caller's.
    """
    for name, value in _ONCE.items():
        if [found.lower() for found in headers.get(name, ())] != [value]:
            return None
    keys = headers.get(b"sec-websocket-key", ())
    if b"upgrade" not in _options(headers) or b"expect" in headers or len(keys) != 1:
        return None
    try:
        decoded = base64.b64decode(keys[0], validate=True)
    except binascii.Error:
        return None
    # Encoded again, because base64 of 16 bytes leaves four bits that could say anything.
    is_key = len(decoded) == _KEY_BYTES and base64.b64encode(decoded) == keys[0]
    return keys[0] if is_key else None


def accepts(key: bytes, fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the header fields of a 101 are the one true answer to ``key``."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        headers.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return (
        [value.lower() for value in headers.get(b"upgrade", ())] == [b"websocket"]
        and b"upgrade" in _options(headers)
        and headers.get(b"sec-websocket-accept") == [accept_value(key)]
        # None was offered.
        and b"sec-websocket-extensions" not in headers
        and not any(name in headers for name in FRAMING)
    )


def accept_value(key: bytes) -> bytes:
    """What ``Sec-WebSocket-Accept`` must be."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _options(headers: Mapping[bytes, Sequence[bytes]]) -> set[bytes]:
    values = b",".join(headers.get(b"connection", ())).split(b",")
    return {value.strip(b" \t").lower() for value in values} - {b""}
