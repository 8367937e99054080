"""WebSockets byte by byte: the policy of their tests, handshakes and frames."""

from __future__ import annotations

import os
import struct
from typing import Any

from tests.support.client import Wire
from tests.support.scene import Scene

from understudy.wire.websocket import accept_value

SECRET = "sk-real+/socket=\"'&9f8e7d6c5b4a3210"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = accept_value(KEY.encode()).decode()
POLICY: dict[str, Any] = {
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"bearer": True}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [
        {"name": "live", "connection": "good", "paths": ["/live/**"], "websocket": True},
        {"name": "good", "connection": "good"},
        {"name": "free", "hosts": ["free.example"], "websocket": True},
    ],
}


def handshake(
    scene: Scene, host: str = "good.example", path: str = "/live/x", **changes: str | None
) -> bytes:
    """A proper handshake; a keyword changes a header (``_`` for ``-``), None leaves it out."""
    headers: dict[str, str | None] = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Extensions": "permessage-deflate",
    }
    if host == "good.example":
        headers["Authorization"] = f"Bearer {scene.placeholder('good')}"
    given = {name.lower(): name for name in headers}
    for name, value in changes.items():
        header = name.replace("_", "-")
        headers[given.get(header.lower(), header)] = value
    lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items() if v is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def open_websocket(scene: Scene, host: str = "good.example", **changes: str | None) -> Wire:
    """Open a WebSocket and read its 101."""
    wire = scene.tunnel(host)
    answer = wire.request(handshake(scene, host, **changes))
    assert answer.status == 101, answer
    assert answer.header("sec-websocket-accept") == ACCEPT
    return wire


def accepted(*lines: str, accept: str = ACCEPT) -> bytes:
    """A 101 for KEY; ``lines`` are added."""
    head = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *lines,
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"


def server_frame(payload: bytes, opcode: int = 1, *, first: int = 0x80) -> bytes:
    """A frame as a server sends it; ``first`` are the FIN and reserved bits."""
    return bytes([first | opcode]) + _length(len(payload), 0) + payload


def client_frame(payload: bytes, opcode: int = 1, *, first: int = 0x80) -> bytes:
    """A frame as a client sends it, masked."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([first | opcode]) + _length(len(payload), 0x80) + mask + masked


def _length(length: int, masked: int) -> bytes:
    if length < 126:
        return bytes([masked | length])
    if length < 1 << 16:
        return struct.pack("!BH", masked | 126, length)
    return struct.pack("!BQ", masked | 127, length)
