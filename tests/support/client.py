"""A client that sends exactly the bytes it is told to, through CONNECT and TLS or without."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_SECONDS = 20


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
    """One connection to the proxy."""

    def __init__(self, proxy: tuple[str, int], ca_file: str | None = None) -> None:
        self.socket: socket.socket = socket.create_connection(proxy, TIMEOUT_SECONDS)
        self.ca_file = ca_file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def connect(self, authority: str) -> Answer:
        """Send a CONNECT and read its answer."""
        self.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        return self.read(connect=True)

    def start_tls(self, server_name: str | None, *, verify_as: str | None = None) -> Self:
        """TLS inside the tunnel; the proxy's certificate is verified unless no CA is known."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.ca_file is None or verify_as is None and server_name is None:
            context.check_hostname = False
            if self.ca_file is None:
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
        """Everything until the proxy closes; a reset counts as closed."""
        data = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while chunk := self.socket.recv(65536):
                data += chunk
        return data

    def read(self, *, connect: bool = False, head_only: bool = False) -> Answer:
        """Read one response; interim ones stay in ``head`` of none."""
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = self.socket.recv(1)
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
            while (size := int(self._read_line(), 16)) > 0:
                answer.body += self._read_exactly(size)
                self._read_line()
            self._read_line()
        else:
            answer.body = self.read_until_closed()
        return answer

    def _read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._read_exactly(1)
        return line[:-2]

    def _read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.socket.recv(min(65536, count - len(data)))
            if not chunk:
                raise ConnectionError("closed in the middle of a body")
            data += chunk
        return data
