"""Header fields as they travel: (name, value) pairs of bytes, in order. Pure.

Every request pays for these several times over, so they stay plain tuples, and what depends on a
name alone is remembered for the names that clients really use.
"""

from __future__ import annotations

import re
from functools import lru_cache

type Field = tuple[bytes, bytes]
type Fields = tuple[Field, ...]

FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""What tells where a body ends; names in lower case, as those below."""
OF_THE_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection"})
"""What an answer says of the connection that it comes on."""
BODYLESS = frozenset({204, 304})
"""Final statuses of answers that never have a body, whatever they say (RFC 9112 6.3)."""

_NO_LETTER = re.compile("[^0-9a-z]")
_REMEMBERED_BYTES = 64
"""Longer names are worked out each time: memory is not for clients to fill."""


def first(fields: Fields, name: bytes) -> bytes:
    """The value of the first field of this lower-case name; empty where there is none."""
    for found, value in fields:
        if found.lower() == name:
            return value
    return b""


def without(fields: Fields, names: frozenset[bytes]) -> Fields:
    """The fields whose lower-case name is none of ``names``."""
    return tuple([field for field in fields if field[0].lower() not in names])


def split(fields: Fields, names: frozenset[bytes]) -> tuple[Fields, Fields]:
    """What :func:`without` keeps, and what it drops."""
    others: list[Field] = []
    named: list[Field] = []
    for field in fields:
        (named if field[0].lower() in names else others).append(field)
    return tuple(others), tuple(named)


def normal_name(name: bytes) -> str:
    """A name in lower case, ``-`` for all but letters and digits.

    CGI-like servers read ``X-Api-Key``, ``x_api_key`` and ``X.Api.Key`` as one.
    """
    return _remembered(name) if len(name) <= _REMEMBERED_BYTES else _normalise(name)


def _normalise(name: bytes) -> str:
    return _NO_LETTER.sub("-", name.decode("latin-1").lower())


_remembered = lru_cache(maxsize=1024)(_normalise)
