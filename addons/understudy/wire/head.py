"""The request head as the client wrote it: strict grammar, no repairs.

Parsers differ, and what two of them read differently is how requests are smuggled. So the bytes
are checked once, here, against a grammar narrower than RFC 9112's, before the engine's parser
sees them; what passes has one reading only. Nothing here does I/O or knows the policy.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from understudy.policy.hosts import HostError, parse_authority
from understudy.reasons import Reason
from understudy.wire.fields import FRAMING
from understudy.wire.outline import Outline
from understudy.wire.websocket import requested_key

if TYPE_CHECKING:
    from understudy.wire.fields import Fields

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ ]+) HTTP/1\.([01])")
_METHOD_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} ")
_TOKEN_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}\Z")
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}")
# RFC 9112 5: no space before the colon, no folding, no control character but HTAB in a value.
# White space around the value is stripped afterwards: matched here, a long run of it inside the
# value would be gone through again from each of its places.
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):([^\x00-\x08\x0a-\x1f\x7f]*+)")
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")
_CONTENT_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_CONNECTION_OPTIONS = frozenset(
    {b"close", b"keep-alive", b"te", b"trailers", b"upgrade", b"http2-settings"}
)

_CONNECTION_LOGINS = (b"ntlm", b"negotiate")
_HTTP_PORT = 80
# What framing, identity and upgrades depend on.
_TELLING = frozenset(
    {
        b"host",
        b"authorization",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"proxy-connection",
        b"expect",
        b"upgrade",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)
_REMEMBERED_LINE_BYTES = 256
"""Longer lines are read each time: memory is not for clients to fill."""
_REMEMBERED_HEADS = 256
_REMEMBERED_HEAD_BYTES = 4096
_AWAITED_HEADS = 4096
# As long as no placeholder is: none can be the number that is left out of an outline.
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([1-9][0-9]{0,14})\r\n")

TargetForm = Literal["origin", "absolute", "authority", "asterisk"]


class RequestHead(NamedTuple):
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
    refusal: Reason | None
    """Why the head is refused whatever the policy says; None where it is clean."""
    websocket_key: bytes | None = None
    """The key where the head is a proper WebSocket handshake."""
    minor_version: int = 1
    """HTTP/1.0 or 1.1."""
    keeps_alive: bool = False
    """Whether the client wants to use the connection again."""
    expects_continue: bool = False
    logs_connection_in: bool = False
    """Its Authorization may log in the connection and not the request."""
    outline: Outline | None = None
    """What it has in common with other heads, where that is known."""
    content_length: int | None = None
    fields: Fields = ()
    """Every header field of a clean head, white space around the values taken off."""


class HeadReader:
    """Reads heads as :func:`parse_head` does, and knows again those that it has read before.

    Two heads that differ in nothing but the number in Content-Length have one and the same
    outline. Only clean heads are remembered, only those that have come twice, and only the latest.
    """

    def __init__(self) -> None:
        self._max_headers = 0
        self._known: dict[bytes, RequestHead] = {}
        self._came_once: set[int] = set()
        """Hashes of heads that may come again."""

    def recall(self, raw: bytes, max_headers: int) -> RequestHead | None:
        """The head, if one like it was read before."""
        if max_headers != self._max_headers:
            return None
        alike, length = _without_length(raw)
        known = self._known.get(alike)
        return None if known is None else _with_length(known, length)

    def read(self, raw: bytes, max_headers: int) -> RequestHead | None:
        """As :func:`parse_head`."""
        if max_headers != self._max_headers:
            self._known.clear()
            self._max_headers = max_headers
        if len(raw) > _REMEMBERED_HEAD_BYTES:
            return parse_head(raw, max_headers)
        alike, length = _without_length(raw)
        head = parse_head(alike, max_headers) if self._comes_again(alike) else None
        if head is None or head.refusal is not None:
            return parse_head(raw, max_headers)
        varies = length is not None
        outline = Outline(head.fields, head.path, lasts=True, length_varies=varies)
        head = head._replace(outline=outline)
        if len(self._known) >= _REMEMBERED_HEADS:
            self._known.clear()
        self._known[alike] = head
        return _with_length(head, length)

    def _comes_again(self, alike: bytes) -> bool:
        mark = hash(alike)
        if mark in self._came_once:
            self._came_once.discard(mark)
            return True
        if len(self._came_once) >= _AWAITED_HEADS:
            self._came_once.clear()
        self._came_once.add(mark)
        return False


def _without_length(raw: bytes) -> tuple[bytes, int | None]:
    """What heads that differ in their length alone have in common, and this one's length."""
    match = _LENGTH.search(raw)
    if match is None:
        return raw, None
    return b"%s1%s" % (raw[: match.start(1)], raw[match.end(1) :]), int(match[1])


def _with_length(head: RequestHead, length: int | None) -> RequestHead:
    if length is None:
        return head
    assert head.outline is not None
    values = (*head[:_CONSTANT], length, head.outline.fill(length))
    return tuple.__new__(RequestHead, values)


_CONSTANT = RequestHead._fields.index("content_length")
"""How many of a head's fields do not depend on its length: all that stand before that."""


def logs_connection_in(scheme: bytes) -> bool:
    """Whether a login may be the connection's and not the request's: NTLM, Negotiate.

    ``scheme`` is what an Authorization or WWW-Authenticate begins with. Who is given such a
    connection next would be logged in as who had it before.
    """
    return scheme.lower().startswith(_CONNECTION_LOGINS)


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
    fields: list[tuple[bytes, bytes]] = []
    refusal = _check_line(method, form, authority, path)
    if len(lines) - 1 > max_headers:
        refusal = refusal or Reason.HEADER_TOO_LARGE
    else:
        for line in lines[1:]:
            read = _remembered_line if len(line) <= _REMEMBERED_LINE_BYTES else _read_line
            field = read(line)
            if field is None:
                refusal = refusal or Reason.BAD_HEADER
                break
            lower_name, name, value = field
            fields.append((name, value))
            if lower_name in _TELLING:
                headers.setdefault(lower_name, []).append(value)
    if not _framing_is_clear(headers, http10=match[3] == b"0"):
        refusal = refusal or Reason.BAD_HEADER
    options = _options(headers)
    expects = [value.lower() for value in headers.get(b"expect", ())]
    # Connection may not name an end-to-end header for removal; Expect only asks to continue.
    if not options <= _CONNECTION_OPTIONS or expects not in ([], [b"100-continue"]):
        refusal = refusal or Reason.BAD_HEADER
    # RFC 1945 knows no Host, and CONNECT says with its target where to: Python up to 3.11 and PHP
    # open their tunnels so.
    may_lack_host = form == "authority" and match[3] == b"0"
    if len(headers.get(b"host", ())) != 1 and not (may_lack_host and b"host" not in headers):
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
        fields=tuple(fields) if refusal is None else (),
        minor_version=0 if match[3] == b"0" else 1,
        keeps_alive=match[3] == b"1" and b"close" not in options,
        expects_continue=bool(expects),
        logs_connection_in=any(map(logs_connection_in, headers.get(b"authorization", ()))),
    )


def _read_line(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(lower-case name, name, value) of a header line; None where it is malformed."""
    field = _HEADER_LINE.fullmatch(line)
    if field is None:
        return None
    name = field[1].lower()
    # CGI-like servers read it as framing that this proxy has not seen.
    if b"_" in name and name.replace(b"_", b"-") in FRAMING:
        return None
    return name, field[1], field[2].strip(b" \t")


# A client's lines repeat from request to request; nothing but the line decides what it says.
_remembered_line = lru_cache(maxsize=1024)(_read_line)


def _malformed_line(line: bytes) -> RequestHead | None:
    if not _METHOD_START.match(line) or b"HTTP/2" in line:
        return None
    method = line.split(b" ", 1)[0].decode("ascii")
    target = line.partition(b" ")[2]
    return RequestHead(
        method,
        "origin",
        target,
        authority=b"",
        path=b"",
        host=b"",
        has_body=True,  # unknown, so the connection is not used again
        refusal=Reason.BAD_TARGET,
    )


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


def _options(headers: dict[bytes, list[bytes]]) -> set[bytes]:
    values = (*headers.get(b"connection", ()), *headers.get(b"proxy-connection", ()))
    return {option.strip().lower() for value in values for option in value.split(b",")} - {b""}
