"""Pretend model APIs at the providers' own addresses: one answer, whole or as a stream.

A stream's last part is held back until the test lets it go, so that a client which has shown
the first part proves that events travel when they are sent.
"""

from __future__ import annotations

import asyncio
import json
import threading
from asyncio import StreamWriter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.upstream import Received

PARTS = ("PO", "NG")
HOLD_SECONDS = 20


@dataclass
class ModelApi:
    """A handler for one provider: ``whole`` and ``parts`` make its JSON."""

    credentials: tuple[tuple[str, str], ...]
    """(header, value) pairs; a request must carry exactly one of them."""
    whole: dict[str, Any]
    parts: Callable[[], list[tuple[str | None, Any]]]
    """(event, data) of the stream; the first :attr:`held_from` go out at once."""
    held_from: int
    go_on: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, received: Received, writer: StreamWriter) -> None:
        names = {name for name, _ in self.credentials}
        sent = [(name, value) for name in names for value in received.headers(name)]
        if len(sent) != 1 or sent[0] not in self.credentials:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        elif b'"stream":true' in received.body.replace(b" ", b"") or "alt=sse" in received.target:
            await self._stream(writer)
        else:
            body = json.dumps(self.whole).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )

    async def _stream(self, writer: StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number, (event, data) in enumerate(self.parts()):
            if number == self.held_from and not await asyncio.to_thread(
                self.go_on.wait, HOLD_SECONDS
            ):
                writer.close()  # broken off, so that a proxy which gathers streams is found out
                return
            text = data if isinstance(data, str) else json.dumps(data)
            piece = (f"event: {event}\n" if event else "") + f"data: {text}\n\n"
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece.encode()))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def openai_api(secret: str) -> ModelApi:
    """``POST /v1/chat/completions``."""

    def completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        choices = [{"index": 0, "finish_reason": None} | choice]
        head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-pretend"}
        return head | {"choices": choices}

    def parts() -> list[tuple[str | None, Any]]:
        chunks = [
            completion("chat.completion.chunk", {"delta": {"role": "assistant", "content": part}})
            for part in PARTS
        ]
        return [*((None, chunk) for chunk in chunks), (None, "[DONE]")]

    message = {"role": "assistant", "content": "PONG"}
    whole = completion("chat.completion", {"message": message, "finish_reason": "stop"})
    return ModelApi((("authorization", f"Bearer {secret}"),), whole, parts, held_from=1)


def anthropic_api(secret: str) -> ModelApi:
    """``POST /v1/messages``; the SDK sends x-api-key before 2.0 and a bearer token from 2.0."""
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-pretend",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }

    def parts() -> list[tuple[str | None, Any]]:
        deltas = [{"index": 0, "delta": {"type": "text_delta", "text": part}} for part in PARTS]
        text = {"type": "text", "text": ""}
        end = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}}
        events: list[tuple[str, dict[str, Any]]] = [
            ("message_start", {"message": message}),
            ("content_block_start", {"index": 0, "content_block": text}),
            *(("content_block_delta", delta) for delta in deltas),
            ("content_block_stop", {"index": 0}),
            ("message_delta", end | {"usage": {"output_tokens": 2}}),
            ("message_stop", {}),
        ]
        return [(event, {"type": event} | data) for event, data in events]

    whole = message | {"content": [{"type": "text", "text": "PONG"}], "stop_reason": "end_turn"}
    credentials = (("x-api-key", secret), ("authorization", f"Bearer {secret}"))
    return ModelApi(credentials, whole, parts, held_from=3)


def gemini_api(secret: str) -> ModelApi:
    """``POST /v1beta/models/…:generateContent`` and ``:streamGenerateContent``."""

    def content(text: str) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}}]}

    def parts() -> list[tuple[str | None, Any]]:
        return [(None, content(part)) for part in PARTS]

    return ModelApi((("x-goog-api-key", secret),), content("PONG"), parts, held_from=1)
