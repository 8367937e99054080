"""HTTP parsers of other projects, each asked what requests some bytes are."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h11
import httptools
from tests.fuzz.nginx import Nginx, run_nginx

ANSWERED = 204
FRAMING = ("content-length", "transfer-encoding", "host")
"""Told in another way by one parser or the other: as the body, or as the host."""
HERE = Path(__file__).parent / "parsers"


@dataclass(frozen=True)
class Seen:
    """A request as a parser sees it."""

    method: str
    target: str
    host: str
    body: bytes
    fields: tuple[tuple[str, str], ...] | None = ()
    """Names in lower case and values, sorted, without what frames the body; None: not told."""


class MisreadError(Exception):
    """A parser does not take the bytes for requests."""


Parser = Callable[[bytes], list[Seen]]


def comparable(fields: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Header fields as :class:`Seen` has them."""
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields)
    return tuple(sorted(pair for pair in pairs if pair[0] not in FRAMING))


def parse_with_h11(raw: bytes) -> list[Seen]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    connection.receive_data(b"")
    seen: list[Seen] = []
    try:
        while isinstance(request := connection.next_event(), h11.Request):
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise MisreadError(repr(event))
            host = dict(request.headers).get(b"host", b"")
            target = request.target.decode("latin-1")
            fields = comparable(request.headers)
            seen.append(Seen(request.method.decode(), target, host.decode(), body, fields))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.DONE and connection.their_state is h11.DONE:
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        raise MisreadError(str(error)) from error
    return seen


class _Collect:
    """httptools' callbacks."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.on_message_begin()

    parser: httptools.HttpRequestParser

    def on_message_begin(self) -> None:
        self.target, self.host, self.body = b"", b"", b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))
        if name.lower() == b"host":
            self.host = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.seen.append(
            Seen(
                self.parser.get_method().decode(),
                self.target.decode("latin-1"),
                self.host.decode(),
                self.body,
                comparable(self.fields),
            )
        )


def parse_with_llhttp(raw: bytes) -> list[Seen]:
    collect = _Collect()
    collect.parser = httptools.HttpRequestParser(collect)
    try:
        collect.parser.feed_data(raw)
    except httptools.HttpParserError as error:
        raise MisreadError(repr(error)) from error
    return collect.seen


def _ask(process: subprocess.Popen[bytes], raw: bytes) -> list[Seen]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(base64.b64encode(raw) + b"\n")
    process.stdin.flush()
    seen = json.loads(process.stdout.readline())
    if any(len(request) == 1 for request in seen):
        raise MisreadError(str(seen))
    return [
        Seen(
            m,
            t,
            h,
            base64.b64decode(body),
            comparable((n.encode("latin-1"), v.encode("latin-1")) for n, v in fields),
        )
        for m, t, h, body, fields in seen
    ]


def _ask_nginx(nginx: Nginx, raw: bytes) -> list[Seen]:
    answers = nginx.ask(raw)
    if any(status != ANSWERED for status, _ in answers):
        raise MisreadError(str(answers))
    return [Seen(m, t, h, body.encode("latin-1"), None) for _, (m, t, h, body) in answers]


def find_program(name: str) -> str | None:
    """Where a program is: on the path, or put into the virtual environment by make."""
    return shutil.which(name, path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")


@contextmanager
def every_parser(folder: Path) -> Iterator[dict[str, Parser]]:
    """The parsers that are on this machine; ``folder`` is for what must be built."""
    commands: dict[str, list[str]] = {}
    if node := find_program("node"):
        commands["node"] = [node, str(HERE / "node.js")]
    if go := find_program("go"):
        built = str(folder / "parse")
        subprocess.run(
            [go, "build", "-o", built, str(HERE / "parse.go")], check=True, capture_output=True
        )
        commands["go"] = [built]
    parsers: dict[str, Parser] = {"h11": parse_with_h11, "llhttp": parse_with_llhttp}
    with ExitStack() as stack:
        for name, command in commands.items():
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            parsers[name] = lambda raw, process=process: _ask(process, raw)
        if program := find_program("nginx"):
            nginx = stack.enter_context(run_nginx(program, folder))
            parsers["nginx"] = lambda raw: _ask_nginx(nginx, raw)
        yield parsers
