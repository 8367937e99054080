"""What the supervisor and a worker tell each other, and how.

The supervisor asks, the worker answers, each message with a number. Questions are pickled, for
they bring whole policies; answers are JSON: nothing that a worker says is executed.
"""

from __future__ import annotations

import asyncio
import contextlib
import copyreg
import io
import json
import pickle
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from understudy.policy.model import Policy

UNASKED = 0
"""The number of a report that a worker gives at its end; questions are counted from 1."""

_HEAD = struct.Struct("!IQ")
"""Length of what follows, number of the question."""


@dataclass(frozen=True, slots=True)
class Take:
    """Put this policy in force, with these placeholders."""

    policy: Policy | None
    placeholders: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Begin:
    """Serve. Answered once the port is listened on, or with the ``problem``."""

    address: tuple[str, int]
    admin_port: int | None
    take: Take


@dataclass(frozen=True, slots=True)
class Report:
    """Tell what is counted and known here."""


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the audit's file anew."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Accept nothing new, let requests in progress end, and end."""


type Question = Begin | Take | Report | Reopen | Drain
type Answer = dict[str, Any]


class Channel:
    """One end of a worker's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Channel:
        """Take over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send_question(self, number: int, question: Question) -> None:
        """Send a question."""
        self._send(number, pickled(question))

    def send_answer(self, number: int, answer: Answer) -> None:
        """Send the answer to the question of this number."""
        self._send(number, json.dumps(answer).encode())

    async def receive_question(self) -> tuple[int, Question] | None:
        """Give the next question; None where the other end is gone."""
        received = await self._receive()
        # From the process that forked this one, through a socket that has no name.
        return received and (received[0], pickle.loads(received[1]))  # noqa: S301 - see above

    async def receive_answer(self) -> tuple[int, Answer] | None:
        """Give the next answer; None where the other end is gone."""
        received = await self._receive()
        return received and (received[0], json.loads(received[1]))

    def hang_up(self) -> None:
        """Say no more."""
        self._writer.close()

    async def close(self) -> None:
        """Hang up, and wait until all is sent."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def _send(self, number: int, data: bytes) -> None:
        self._writer.write(_HEAD.pack(len(data), number) + data)

    async def _receive(self) -> tuple[int, bytes] | None:
        try:
            length, number = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            return number, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


class _Pickler(pickle.Pickler):
    # Presets hold their tables read-only, which pickle has no form for.
    dispatch_table = copyreg.dispatch_table.copy()
    dispatch_table[MappingProxyType] = lambda table: (_seal, (dict(table),))


def _seal(table: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(table)


def pickled(question: Question) -> bytes:
    """A question as it is sent; any process that shares this code can read it."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(question)
    return buffer.getvalue()
