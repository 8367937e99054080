"""TLS records that can be held back: what a network makes of them, which sends them in pieces."""

from __future__ import annotations

import socket
import ssl
from typing import Any, cast

from tests.support.scene import Scene


class RecordSocket:
    """A TLS client on a raw socket; :meth:`seal` gives records that are not sent yet."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(self._outgoing.read())
                self._incoming.write(raw.recv(65536))
        raw.sendall(self._outgoing.read())

    def seal(self, data: bytes) -> bytes:
        """The records that carry ``data``."""
        self._tls.write(data)
        return self._outgoing.read()

    def send_raw(self, records: bytes) -> None:
        """Send bytes as they are: records, or parts of them."""
        self._raw.sendall(records)

    def sendall(self, data: bytes) -> None:
        """As a socket's."""
        self._raw.sendall(self.seal(data))

    def recv(self, most: int) -> bytes:
        """As a socket's."""
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                received = self._raw.recv(65536)
                if not received:
                    return b""
                self._incoming.write(received)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def close(self) -> None:
        """As a socket's."""
        self._raw.close()


class PiecesWire:
    """A tunnel to ``host`` whose records come one part at a time, each read before the next."""

    def __init__(self, scene: Scene, host: str) -> None:
        self._scene = scene
        self.wire = scene.wire()
        assert self.wire.connect(f"{host}:443").status == 200
        context = ssl.create_default_context(cafile=self.wire.ca_file)
        self.records = RecordSocket(self.wire.socket, context, host)
        self.wire.socket = cast("Any", self.records)

    def send(self, data: bytes, pieces: int = 3) -> None:
        """Send ``data`` as one record in so many parts."""
        record = self.records.seal(data)
        size = -(-len(record) // pieces)
        for start in range(0, len(record), size):
            self.records.send_raw(record[start : start + size])
            # Answered by the same event loop, which has read the part before by then.
            self._scene.proxy.admin("/healthz")
