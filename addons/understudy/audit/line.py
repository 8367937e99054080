"""One event as one line: valid JSON in ASCII, bounded, whatever bytes the agent put into it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

from understudy.audit.events import FIELD_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CHARACTERS = 256
"""Of any string but a path."""
MAX_PATH_CHARACTERS = 2048
MAX_ITEMS = 16
"""Of any list."""
DIGEST_SUFFIX = "_sha256"
"""``path`` was cut: ``path_sha256`` beside it is the hex digest of the whole value."""

# The C encoder, made once: json.dumps with other than default options makes one for each call.
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode


def encode(event: Mapping[str, object]) -> bytes:
    """Give the event as an ASCII JSON object and a newline.

    Nulls are left out. A string over 256 characters (a path: over 2048) is cut, and its SHA-256
    stands beside it. Bytes and lone surrogates that are not UTF-8 appear as ``\\xNN`` and
    ``\\uNNNN``. Control characters, C1 and line separators are escaped, so a line stays a line.
    """
    return _encode(_clean(event)).encode("ascii") + b"\n"


def _clean(mapping: Mapping[str, object]) -> dict[str, object]:
    # Every request pays for this walk twice: the usual case of each branch comes first.
    cleaned: dict[str, object] = {}
    for name, value in mapping.items():
        if isinstance(value, str) and len(value) <= MAX_CHARACTERS and value.isascii():
            cleaned[name] = value
        elif value is None:
            continue
        elif isinstance(value, (str, bytes)):
            _clean_string(cleaned, name, value)
        else:
            cleaned[name] = _clean_value(value)
    return cleaned


def _clean_string(cleaned: dict[str, object], name: str, value: str | bytes) -> None:
    limit = MAX_PATH_CHARACTERS if name == FIELD_PATH else MAX_CHARACTERS
    text = _to_text(value)
    cleaned[name] = text[:limit]
    if len(text) > limit:
        whole = value if isinstance(value, bytes) else text.encode()
        cleaned[name + DIGEST_SUFFIX] = hashlib.sha256(whole).hexdigest()


def _clean_value(value: object) -> object:
    if isinstance(value, int):  # bool included
        return value
    if isinstance(value, dict):
        return _clean(value)
    if isinstance(value, (list, tuple)):
        return [_clean_value(item) for item in value[:MAX_ITEMS]]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _to_text(value if isinstance(value, bytes) else str(value))[:MAX_CHARACTERS]


def _to_text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
