"""The request head as the client wrote it: strict grammar, no repairs.

Parsers differ, and what two of them read differently is how requests are smuggled. So the bytes
are checked once, here, against a grammar narrower than RFC 9112's, before the engine's parser
sees them; what passes has one reading only. Nothing here does I/O or knows the policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from understudy.policy.hosts import HostError, parse_authority
from understudy.reasons import Reason
from understudy.wire.websocket import requested_key

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ ]+) HTTP/1\.([01])")
_METHOD_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} ")
_TOKEN_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}")
# RFC 9112 5: no space before the colon, no folding, no control character but HTAB in a value.
_HEADER_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*"
)
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")
_CONTENT_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_CONNECTION_OPTIONS = frozenset(
    {b"close", b"keep-alive", b"te", b"trailers", b"upgrade", b"http2-settings"}
)

_HTTP_PORT = 80

TargetForm = Literal["origin", "absolute", "authority", "asterisk"]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One request head whose request line could be read."""

    method: str
    form: TargetForm
    target: bytes
    """The request target as sent, whole."""
    authority: bytes
    """``host:port`` of an absolute-form or authority-form target; empty otherwise."""
    path: bytes
    """Path and query as sent; empty for authority-form and asterisk-form."""
    host: bytes
    """The value of the one Host header; empty where there is none."""
    has_body: bool
    content_length: int | None
    refusal: Reason | None
    """Why the head is refused whatever the policy says; None where it is clean."""
    websocket_key: bytes | None = None
    """The key where the head is a proper WebSocket handshake."""


def looks_like_http(start: bytes) -> bool:
    """Whether the first bytes of a connection can still become an HTTP request line."""
    line, whole, _ = start.partition(b"\r\n")
    if whole:
        return bool(_METHOD_START.match(line)) and b" HTTP/" in line
    return bool(_METHOD_START.match(line) or _TOKEN_START.match(line))


def parse_head(raw: bytes, max_headers: int) -> RequestHead | None:
    """Read one head, ``raw`` ending in the empty line; None where it is not HTTP/1.x at all.

    A head that is HTTP but malformed or ambiguous is returned with ``refusal`` set, so that the
    audit can say what was asked for.
    """
    lines = raw[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        return _malformed_line(lines[0])
    method, target, _ = match.groups()
    form, authority, path = _read_target(method, target)
    headers: dict[bytes, list[bytes]] = {}
    refusal = _check_line(method, form, authority, path)
    if len(lines) - 1 > max_headers:
        refusal = refusal or Reason.HEADER_TOO_LARGE
    else:
        for line in lines[1:]:
            field = _HEADER_LINE.fullmatch(line)
            if field is None:
                refusal = refusal or Reason.BAD_HEADER
                break
            headers.setdefault(field[1].lower(), []).append(field[2])
    if not _framing_is_clear(headers, http10=match[3] == b"0"):
        refusal = refusal or Reason.BAD_HEADER
    if not _options_are_known(headers) or len(headers.get(b"host", [])) != 1:
        refusal = refusal or Reason.BAD_HEADER
    lengths = headers.get(b"content-length", [b""])
    length = int(lengths[0]) if _CONTENT_LENGTH.fullmatch(lengths[0]) else None
    has_body = b"transfer-encoding" in headers or bool(length)
    may_upgrade = b"upgrade" in headers and (method, match[3], has_body) == (b"GET", b"1", False)
    return RequestHead(
        method=method.decode("ascii"),
        form=form,
        target=target,
        authority=authority,
        path=path,
        host=headers.get(b"host", [b""])[0],
        has_body=has_body,
        content_length=length,
        refusal=refusal,
        websocket_key=requested_key(headers) if may_upgrade else None,
    )


def _malformed_line(line: bytes) -> RequestHead | None:
    if not _METHOD_START.match(line) or b"HTTP/2" in line:
        return None
    method = line.split(b" ", 1)[0].decode("ascii")
    target = line.partition(b" ")[2]
    return RequestHead(method, "origin", target, b"", b"", b"", True, None, Reason.BAD_TARGET)  # noqa: FBT003 - has_body: unknown, so the connection is not used again


def _read_target(method: bytes, target: bytes) -> tuple[TargetForm, bytes, bytes]:
    if method == b"CONNECT":
        return "authority", target, b""
    if target.startswith(b"/"):
        return "origin", b"", target
    if target == b"*":
        return "asterisk", b"", b""
    scheme, separator, rest = target.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        authority, slash, path = rest.partition(b"/")
        return "absolute", authority, slash + path
    return "origin", b"", target


def _check_line(method: bytes, form: TargetForm, authority: bytes, path: bytes) -> Reason | None:
    if method == b"TRACE" or not _METHOD.fullmatch(method):
        return Reason.BAD_METHOD
    if form in ("absolute", "authority"):
        try:
            parse_authority(authority, None if form == "authority" else _HTTP_PORT)
        except HostError:
            return Reason.BAD_TARGET
    if form == "asterisk" or (form != "authority" and not path.startswith(b"/")):
        return Reason.BAD_TARGET
    if form != "authority" and (not _VISIBLE_ASCII.fullmatch(path) or b"#" in path):
        return Reason.PATH_NOT_CANONICAL
    return None


def _framing_is_clear(headers: dict[bytes, list[bytes]], *, http10: bool) -> bool:
    """RFC 9112 6.3, narrowed: at most one Content-Length, or ``chunked`` alone; never both."""
    lengths = headers.get(b"content-length", [])
    codings = headers.get(b"transfer-encoding", [])
    if codings:
        return not lengths and not http10 and [c.lower() for c in codings] == [b"chunked"]
    return len(lengths) <= 1 and all(_CONTENT_LENGTH.fullmatch(value) for value in lengths)


def _options_are_known(headers: dict[bytes, list[bytes]]) -> bool:
    """Connection may not name an end-to-end header for removal; Expect only asks to continue."""
    options = {
        option.strip().lower()
        for value in headers.get(b"connection", []) + headers.get(b"proxy-connection", [])
        for option in value.split(b",")
    }
    expects = [value.lower() for value in headers.get(b"expect", [])]
    return options - {b""} <= _CONNECTION_OPTIONS and expects in ([], [b"100-continue"])
