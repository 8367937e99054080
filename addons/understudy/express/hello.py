"""The ClientHello out of its TLS records."""

from __future__ import annotations

from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.tls import ClientHello

_RECORD_HEADER_BYTES = 5
_MESSAGE_HEADER_BYTES = 4


def read_hello(records: bytes) -> ClientHello | None:
    """The ClientHello in whole TLS records; None where more of them are needed.

    Raises ValueError for what is none, empty records included. (mitmproxy's own reader comes with
    its layers of QUIC and HTTP/2, which take longer to import than all of this engine.)
    """
    message = b""
    start = 0
    while start < len(records):
        header = records[start : start + _RECORD_HEADER_BYTES]
        size = int.from_bytes(header[3:])
        if not starts_like_tls_record(header) or not size:
            raise ValueError("no TLS handshake record")
        start += _RECORD_HEADER_BYTES
        message += records[start : start + size]
        start += size
    if len(message) < _MESSAGE_HEADER_BYTES:
        return None
    end = _MESSAGE_HEADER_BYTES + int.from_bytes(message[1:_MESSAGE_HEADER_BYTES])
    if len(message) < end:
        return None
    try:
        return ClientHello(message[_MESSAGE_HEADER_BYTES:end])
    except EOFError:
        raise ValueError("no ClientHello") from None
