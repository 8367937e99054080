"""The forms in which an echo shows a secret: as sent, and as encoders write it."""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BASE64_ALIGNMENTS = 3
_WIDE_GAP = b"\0"
"""What stands between two ASCII characters in UTF-16, of either byte order."""


def echoes(value: str, placeholder: str = "") -> dict[bytes, bytes]:
    """Every form of ``value`` that is looked for in responses, and what is written in its place.

    As it is, in UTF-8 and UTF-16; base64 and URL-safe base64 wherever it begins in what was
    encoded, once and twice (a whole head that holds Basic); hexadecimal. Escapes (URL, JSON, HTML)
    are no forms of their own: :mod:`understudy.credentials.readings` takes them off. In base64 the
    first and last character of a secret share their digits with what stands around, so these
    digits are no part of the form and stay behind in the response.
    """
    # As it stands in a query or in JSON, which somebody may have encoded as a whole.
    texts = {value, json.dumps(value)[1:-1], urllib.parse.quote(value, safe="")}
    texts.add(value.replace(" ", "+"))
    once = {encoded for text in texts for encoded in _base64(text)}
    once |= {encoded for form in tuple(once) for encoded in _base64(form)}
    raw = value.encode()
    plain = {value, value.replace(" ", "+"), raw.hex(), raw.hex().upper()}
    written = {text.encode(): placeholder.encode() for text in (*once, *plain)}
    written[_widen(value)] = _widen(placeholder)
    return written


def _base64(text: str) -> Iterator[str]:
    raw = text.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(_BASE64_ALIGNMENTS):
            # Only the characters that the text alone determines, whatever stands around it.
            encoded = encode(b"\0" * shift + raw).decode("ascii").rstrip("=")
            yield encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]


def _widen(text: str) -> bytes:
    return _WIDE_GAP.join(char.encode() for char in text)
