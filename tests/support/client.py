"""A client that sends exactly the bytes it is told to, through CONNECT and TLS or without."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_SECONDS = 10
REFUSED = (ssl.SSLError, ConnectionError)
"""What a client sees where the proxy closes the connection instead of answering."""


@dataclass
class Answer:
    """A response as it came: status, headers, body."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.lower().encode():
                return value.strip().decode("latin-1")
        return None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The denial's code; fails where the answer is no denial."""
        return str(self.json["understudy"]["reason"])


class Wire:
    """One connection to the proxy; ``transcript`` is every byte that it gave, TLS removed."""

    def __init__(
        self, proxy: tuple[str, int], ca_file: str | None = None, source: str | None = None
    ) -> None:
        self.socket: socket.socket = socket.create_connection(
            proxy, TIMEOUT_SECONDS, source_address=(source, 0) if source else None
        )
        self.ca_file = ca_file
        self.transcript = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def connect(self, authority: str | bytes) -> Answer:
        """Send a CONNECT and read its answer."""
        raw = authority.encode() if isinstance(authority, str) else authority
        self.send(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (raw, raw))
        return self.read(connect=True)

    def reset(self) -> None:
        """Close with a reset instead of a proper end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def start_tls(self, server_name: str | None, *, verify: bool = True) -> Self:
        """TLS inside the tunnel, with ``server_name`` in the ClientHello (None: without one).

        The proxy's certificate is verified, by name where a name is sent; an attacker's client
        (``verify=False``) takes any.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = verify and server_name is not None
        if not verify:
            context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname=server_name)
        return self

    def request(self, head: str | bytes, body: bytes = b"") -> Answer:
        """Send a head (line ends are made CRLF, the empty line is added) and read the answer."""
        if isinstance(head, str):
            head = "\r\n".join(head.strip().splitlines()).encode("latin-1") + b"\r\n\r\n"
        method = head.split(b" ", 1)[0]
        return self.send(head + body).read(head_only=method == b"HEAD")

    def read_until_closed(self) -> bytes:
        """Everything until the proxy closes; a reset counts as closed, silence fails."""
        data = b""
        with contextlib.suppress(*REFUSED):
            while chunk := self._receive(65536):
                data += chunk
        return data

    def read(self, *, connect: bool = False, head_only: bool = False) -> Answer:
        """Read one response; an interim one is one of its own."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self._receive(1)
            if not chunk:
                raise ConnectionError(f"closed in the middle of a head: {data!r}")
            data += chunk
        head = data[:-4]
        status = int(head.split(b" ", 2)[1])
        answer = Answer(status, head, b"")
        if head_only or status in (204, 304) or status < 200 or (connect and status == 200):
            return answer
        if (length := answer.header("content-length")) is not None:
            answer.body = self._read_exactly(int(length))
        elif "chunked" in (answer.header("transfer-encoding") or ""):
            while (chunk := self.read_chunk()) != b"":
                answer.body += chunk
        else:
            answer.body = self.read_until_closed()
        return answer

    def read_chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty for the last."""
        data = self._read_exactly(int(self._read_line(), 16))
        self._read_line()
        return data

    def _receive(self, most: int) -> bytes:
        data = self.socket.recv(most)
        self.transcript += data
        return data

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._read_exactly(1)
        return line[:-2]

    def _read_exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._receive(min(65536, count - len(data)))
            if not chunk:
                raise ConnectionError("closed in the middle of a body")
            data += chunk
        return bytes(data)


def client_hello(server_name: str | None, *, alpn: list[str] | None = None) -> bytes:
    """The bytes with which a TLS client begins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
