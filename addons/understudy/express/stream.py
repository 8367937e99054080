"""One TCP connection, with TLS on it or not: bytes in, bytes out, backpressure both ways.

TLS runs on memory buffers, so that a decrypted byte is at hand in the same turn of the loop in
which its record came, and so that the first bytes can be looked at before a handshake begins.

What is written leaves when the turn of the loop ends, whatever was written to one connection in
one TLS record: a peer that has gone to sleep is woken once, not for every piece (see Outbox).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.express.outbox import Outbox

READ_HIGH_WATER_BYTES = 1 << 18
"""With this much unread, the peer is made to wait."""
_CHUNK_BYTES = 1 << 18
PARSED_BYTES = 1 << 14
"""So much of chunks and frames is parsed before others have their turn: they may be tiny."""
_RECORD_BYTES = 1 << 14
"""The most that one TLS record holds."""
_UNREAD_BYTES = 1 << 21
"""What is streamed waits for its reader long before. A peer that asks for new keys (RFC 8446 4.6.3)
again and again, and reads no answer, would have any amount wait."""


class Stream(asyncio.Protocol):
    """A connection as a coroutine sees it: ``await read()``, ``write()``, ``await drain()``.

    ``on_made`` is called once with the stream when the connection is there. With ``reads_rest``
    what the peer had sent before a write failed can still be read.
    """

    def __init__(
        self,
        outbox: Outbox,
        on_made: Callable[[Stream], None] | None = None,
        *,
        reads_rest: bool = False,
    ) -> None:
        self._outbox = outbox
        self._reads_rest = reads_rest
        self._on_made = on_made
        self.transport: asyncio.Transport
        self.received = bytearray()
        """What has arrived, decrypted, and was not taken yet."""
        self.ended = False
        """Nothing more will arrive."""
        self.failed = False
        """The connection is gone in both directions."""
        self.cut = False
        """The end came unannounced: a reset, or TCP's end where TLS had not ended."""
        self._waiter: asyncio.Future[None] | None = None
        self._is_woken = False
        """The waiter is about to go on."""
        self._deadline: float | None = None
        """Until when the waiter waits, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self._unsent: list[bytes] = []
        """What was written in this turn of the loop."""
        self._writing_paused = False
        self._reading_paused = False
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._handshaken = False
        self.tls_error: ssl.SSLError | None = None
        self.moved_at = 0.0
        """When bytes last went either way, on the loop's clock; see :meth:`notice_reading`."""
        self._unread = 0
        self.on_end: Callable[[], None] | None = None
        """Called once when the peer has gone."""
        self.on_lost: Callable[[], None] | None = None
        """Called once when the connection is closed, whoever closed it."""

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's are no subclass of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self.moved_at = self._loop.time()
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        self.moved_at = self._loop.time()
        if self._tls is None:
            self.received += data
        else:
            self._incoming.write(data)
            self._advance_tls()
        if len(self.received) > READ_HIGH_WATER_BYTES and not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """Note that the peer has said all; our side may still have something to say."""
        self.cut = self.cut or (self._tls is not None and not self.ended)
        self.ended = True
        self._wake()
        return self._tls is None

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is gone."""
        if self._reads_rest and error is not None and not self.ended:
            self._read_rest()
        self.cut = self.cut or (error is not None and not self.ended)
        self.ended = self.failed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()
        self.resume_writing()
        if self.on_lost is not None:
            self.on_lost()

    def _read_rest(self) -> None:
        """Take what still waits in the system: the transport ends at the first failed write.

        A server that does not want all of a request answers and closes, and then what is being
        sent fails before its answer is read.
        """
        with contextlib.suppress(OSError):
            # The transport closes its descriptor after it has told of the loss.
            rest = os.read(self.transport.get_extra_info("socket").fileno(), _CHUNK_BYTES)
            if self._tls is None:
                self.received += rest
            else:
                self._incoming.write(rest)
                self._advance_tls()

    def pause_writing(self) -> None:
        """Make writers wait."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Let writers go on."""
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- the coroutine's side

    async def wait(self, deadline: float | None = None) -> bool:
        """Wait for more to arrive; false once nothing will.

        Bytes that give nothing to take, as part of a TLS record or a change of its keys, do not end
        the wait: callers take what has come, and nothing would be the end to them. ``deadline`` is
        on the loop's clock; TimeoutError is raised then.
        """
        before = len(self.received)
        try:
            while len(self.received) == before and not self.ended:
                if deadline is not None:
                    self._wait_until(deadline)
                await self._await_news()
        finally:
            self._deadline = None
        return len(self.received) > before

    async def stir(self) -> bool:
        """Wait until anything has come, were it only part of a TLS record; false at the end."""
        if not self.received and not self.ended:
            await self._await_news()
        return bool(self.received) or not self.ended

    async def _await_news(self) -> None:
        outbox = self._outbox
        if not outbox.woken:
            outbox.send()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._is_woken:
                self._is_woken = False
                outbox.woken -= 1

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        # The timer of an earlier wait serves this one too, where it goes off in time: nearly all
        # waits are over long before, and a timer for each would cost them more than their future.
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._deadline is None or self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._wait_until(self._deadline)
        else:
            self._waiter.set_exception(TimeoutError())

    def take(self, most: int = _CHUNK_BYTES) -> bytes:
        """Take what has arrived."""
        if len(self.received) <= most:
            data = bytes(self.received)
            self.received.clear()
        else:
            data = bytes(self.received[:most])
            del self.received[:most]
        if self._reading_paused and len(self.received) < READ_HIGH_WATER_BYTES:
            # At once, not with the next wait: on a connection that rests, or whose answer is
            # waited for, the peer's end has to be noticed.
            self._reading_paused = False
            if not self.failed and not self.transport.is_closing():
                self.transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Send before the turn of the loop ends; nothing happens on a connection that is gone."""
        if self.failed or not data:
            return
        self._unsent.append(data)
        if len(data) > _RECORD_BYTES or self._outbox.requests <= 1:
            self.send()
        elif len(self._unsent) == 1:
            self._outbox.hold(self)

    def send(self) -> None:
        """Send what was written."""
        if not self._unsent:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        self._unsent.clear()
        if self.failed or self.transport.is_closing():
            return
        self.moved_at = self._loop.time()
        if self._tls is None:
            self.transport.write(data)
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            # What was to be sent is lost, so nothing may follow it.
            self.tls_error = error
            self.transport.abort()
            return
        self._flush_tls()

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was written."""
        while self._writing_paused and not self.failed:
            self._drained = self._loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def notice_reading(self) -> None:
        """Count it as movement where the peer has read of what waits for it."""
        unread = self.transport.get_write_buffer_size()
        if unread < self._unread:
            self.moved_at = self._loop.time()
        self._unread = unread

    async def wait_closed(self) -> None:
        """Wait until everything is written and the connection is gone."""
        while not self.failed:
            await self._await_news()

    def close(self) -> None:
        """Close once everything is written."""
        if not self.failed:
            self.send()
            self.transport.close()

    def abort(self) -> None:
        """Close at once; what was written is in the system's hands, or lost."""
        if not self.failed:
            self.send()
            self.transport.abort()

    # -- TLS

    async def start_tls(self, context: ssl.SSLContext, *, server: bool, name: str | None) -> None:
        """Do the handshake; what arrived before is its beginning. Raises OSError."""
        self.send()  # what was written before is not under TLS
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server, server_hostname=name
        )
        # All of it: what was sent in the clear never stands among what TLS has protected.
        self._incoming.write(self.take(len(self.received)))
        self._advance_tls()
        while not self._handshaken and not self.ended:
            await self._await_news()
        if self.tls_error is not None:
            raise self.tls_error
        if not self._handshaken:
            raise ConnectionError("connection closed")

    def _advance_tls(self) -> None:
        tls = self._tls
        assert tls is not None
        try:
            if not self._handshaken:
                tls.do_handshake()
                self._handshaken = True
            while True:
                data = tls.read(_RECORD_BYTES)
                if not data:
                    self.ended = True
                    break
                self.received += data
                if not self._incoming.pending and not tls.pending():
                    break  # saves the exception that says so
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.tls_error = error
            self.ended = self.cut = True
        if self._outgoing.pending and not self.transport.is_closing():
            self._flush_tls()
            if self.transport.get_write_buffer_size() > _UNREAD_BYTES:
                self.transport.abort()

    def _flush_tls(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def _wake(self) -> None:
        if self.ended and self.on_end is not None:
            on_end, self.on_end = self.on_end, None
            on_end()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            if not self._is_woken:
                self._is_woken = True
                self._outbox.woken += 1
