"""The forms in which an echo shows a secret: as sent, and as common encoders write it."""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE64_ALIGNMENTS = 3
_URL_SAFE_SETS = (
    "",
    "/",  # Python's own default
    "!'()*",  # JavaScript's encodeURIComponent
    ";,/?:@&=+$#!'()*",  # JavaScript's encodeURI
)
_PERCENT_ESCAPE = re.compile("%[0-9A-F]{2}")
# What JSON encoders escape beyond what they must: Go's and .NET's own defaults.
_GO_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}
_DOTNET_ESCAPES = {ord(char): f"\\u{ord(char):04X}" for char in "<>&'+`"}


def echoes(value: str) -> set[bytes]:
    """Every form of ``value`` that is looked for in responses.

    As it is; base64 and URL-safe base64 wherever it begins in what was encoded, once and twice
    (a whole head that holds Basic); hexadecimal; each of these URL-encoded, JSON-escaped and
    HTML-escaped, and the value itself URL-encoded or JSON-escaped twice. In base64 the first and
    last character of a secret share their digits with what stands around, so these digits are no
    part of the form and stay behind in the response.
    """
    once = set(_base64(value))
    encoded = once | {deeper for form in once for deeper in _base64(form)}
    raw = value.encode()
    encoded |= {raw.hex(), raw.hex().upper()}
    texts = {escaped for form in (value, *encoded) for escaped in _escapes(form)}
    texts |= {twice for form in _url(value) for twice in _url(form)}
    texts |= {twice for form in _json(value) for twice in _json(form)}
    return {text.encode() for text in texts}


def _base64(value: str) -> Iterator[str]:
    raw = value.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(_BASE64_ALIGNMENTS):
            # Only the characters that the secret alone determines, whatever stands around it.
            encoded = encode(b"\0" * shift + raw).decode("ascii").rstrip("=")
            yield encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]


def _escapes(text: str) -> Iterator[str]:
    yield text
    yield from _url(text)
    yield from _json(text)
    escaped = html.escape(text)
    yield escaped
    yield html.escape(text, quote=False)
    yield escaped.replace("&#x27;", "&#39;")
    yield escaped.replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def _url(text: str) -> Iterator[str]:
    for safe in _URL_SAFE_SETS:
        for encoded in (urllib.parse.quote(text, safe), urllib.parse.quote_plus(text, safe)):
            yield encoded
            yield _PERCENT_ESCAPE.sub(lambda escape: escape[0].lower(), encoded)


def _json(text: str) -> Iterator[str]:
    plain = json.dumps(text)[1:-1]
    dotnet = plain.replace('\\"', "\\u0022").translate(_DOTNET_ESCAPES)
    for escaped in (plain, plain.translate(_GO_ESCAPES), dotnet):
        yield escaped
        yield escaped.replace("/", "\\/")
