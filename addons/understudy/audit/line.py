"""One event as one line: valid JSON in ASCII, bounded, whatever bytes the agent put into it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

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

escape = json.encoder.encode_basestring_ascii
"""The C function that writes a string as JSON in ASCII, quotes included."""


def encode(event: Mapping[str, object]) -> bytes:
    """Give the event as an ASCII JSON object and a newline.

    Nulls are left out. A string over 256 characters (a path: over 2048) is cut, and its SHA-256
    stands beside it. Bytes and lone surrogates that are not UTF-8 appear as ``\\xNN`` and
    ``\\uNNNN``. Control characters, C1 and line separators are escaped, so a line stays a line.
    """
    return f"{{{members(event)}}}\n".encode("ascii")


def members(mapping: Mapping[str, Any]) -> str:
    """What stands between the braces: ``"name":value`` for every entry, in order."""
    # Every request pays for this walk twice: the usual case of each branch comes first.
    written: list[str] = []
    for name, value in mapping.items():
        if value is None:
            continue
        kind = type(value)
        if kind is str and len(value) <= MAX_CHARACTERS and value.isascii():
            written.append(f'"{name}":{escape(value)}')
        elif kind is int:
            written.append(f'"{name}":{value}')
        elif isinstance(value, (str, bytes)):
            _write_long(written, name, value)
        else:
            written.append(f'"{name}":{_write_value(value)}')
    return ",".join(written)


def _write_long(written: list[str], name: str, value: str | bytes) -> None:
    limit = MAX_PATH_CHARACTERS if name == FIELD_PATH else MAX_CHARACTERS
    text = _to_text(value)
    written.append(f'"{name}":{escape(text[:limit])}')
    if len(text) > limit:
        whole = value if isinstance(value, bytes) else text.encode()
        digest = hashlib.sha256(whole).hexdigest()
        written.append(f'"{name}{DIGEST_SUFFIX}":"{digest}"')


def _write_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return f"{{{members(value)}}}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_write_value(item) for item in value[:MAX_ITEMS]]) + "]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "null"
    if value is None:
        return "null"
    text = _to_text(value if isinstance(value, bytes) else str(value))
    return escape(text[:MAX_CHARACTERS])


def _to_text(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
