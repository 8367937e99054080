"""mitmproxy's flows and messages, made from what is known to be well-formed.

They are mitmproxy's own classes with mitmproxy's own attributes; only their constructors are left
out, which check and convert what is checked and converted already and cost more than all else
that a request needs (tests/express/test_messages.py compares the two).
"""

from __future__ import annotations

import time
import uuid
from itertools import count
from typing import TYPE_CHECKING

from mitmproxy import http

if TYPE_CHECKING:
    from mitmproxy.connection import Client, Server

    from understudy.express.stream import Stream
    from understudy.stages.exchange import Exchange
    from understudy.wire.fields import Fields
    from understudy.wire.head import RequestHead

LAST_CHUNK = b"0\r\n\r\n"

_VERSIONS = (b"HTTP/1.0", b"HTTP/1.1")
_RUN_ID = str(uuid.uuid4())
_numbers = count()


def make_headers(fields: Fields) -> http.Headers:
    """Headers of fields that are bytes."""
    headers = http.Headers.__new__(http.Headers)
    headers.fields = fields
    return headers


def make_flow(client: Client, server: Server, request: http.Request) -> http.HTTPFlow:
    """A live flow."""
    flow = http.HTTPFlow.__new__(http.HTTPFlow)
    # As unique as mitmproxy's own, which take a system call each.
    flow.id = f"{_RUN_ID}-{next(_numbers)}"
    flow.client_conn = client
    flow.server_conn = server
    flow.live = True
    flow.timestamp_created = time.time()
    flow.intercepted = False
    flow._resume_event = None  # noqa: SLF001 - as mitmproxy's own constructor
    flow._backup = None  # noqa: SLF001 - likewise
    flow.marked = ""
    flow.is_replay = None
    flow.metadata = {}
    flow.comment = ""
    flow.request = request
    return flow


def make_request(head: RequestHead, *, tls: bool) -> http.Request:
    """The request of a clean head; its destination is for the stages to set."""
    request = http.Request.__new__(http.Request)
    request.data = data = http.RequestData.__new__(http.RequestData)
    data.http_version = _VERSIONS[head.minor_version]
    data.headers = make_headers(head.fields)
    data.content = None
    data.trailers = None
    data.timestamp_start = time.time()
    data.timestamp_end = None
    data.host = ""
    data.port = 0
    data.method = head.method.encode("ascii")
    data.scheme = b"https" if tls else b"http"
    data.authority = b""
    data.path = head.path or head.target
    return request


def make_response(status: int, reason: bytes, fields: Fields) -> http.Response:
    """A response whose body streams."""
    response = http.Response.__new__(http.Response)
    response.data = data = http.ResponseData.__new__(http.ResponseData)
    data.http_version = b"HTTP/1.1"
    data.headers = make_headers(fields)
    data.content = None
    data.trailers = None
    data.timestamp_start = time.time()
    data.timestamp_end = None
    data.status_code = status
    data.reason = reason
    return response


def request_head(request: http.Request, exchange: Exchange) -> bytes:
    """The head as it goes upstream, in origin form."""
    data, outline = request.data, exchange.outline
    if outline is not None and data.headers.fields is exchange.fields:
        lines = outline.lines(exchange.head.content_length)
    else:
        lines = _lines(data.headers)  # another addon has changed them
    return b"%s %s %s\r\n%s\r\n" % (data.method, data.path, data.http_version, lines)


def response_head(response: http.Response) -> bytes:
    """The head as it goes to the client."""
    data = response.data
    return b"HTTP/1.1 %d %s\r\n%s\r\n" % (data.status_code, data.reason, _lines(data.headers))


def _lines(headers: http.Headers) -> bytes:
    return b"".join([b"%s: %s\r\n" % field for field in headers.fields])


def write_response(
    stream: Stream, response: http.Response, *, close: bool = False, head_only: bool = False
) -> None:
    """Write a response that an addon made, whole; ``head_only`` as the answer to HEAD."""
    content = response.raw_content or b""
    lines = [f"HTTP/1.1 {response.status_code} {response.reason}".encode("latin-1")]
    lines += [
        name + b": " + value
        for name, value in response.headers.fields
        if name.lower() not in (b"content-length", b"transfer-encoding", b"connection")
    ]
    lines.append(b"Content-Length: %d" % len(content))
    if close:
        lines.append(b"Connection: close")
    body = b"" if head_only else content
    stream.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def apply_filter(stream: object, data: bytes) -> list[bytes]:
    """What a flow's stream attribute makes of a piece of a body; no empty pieces."""
    if not callable(stream):
        return [data] if data else []
    made = stream(data)
    if isinstance(made, bytes):
        return [made] if made else []
    return [piece for piece in made if piece]


def chunk(data: bytes) -> bytes:
    """A piece of a body in the chunked coding; it may not be empty."""
    return b"%x\r\n%s\r\n" % (len(data), data)
