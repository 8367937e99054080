"""The id of a request, in the audit and in its denial."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from itertools import batched

_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_DIGITS = _CROCKFORD * 8  # any byte to a digit, evenly
_DIGIT_SHIFTS = range(45, -1, -5)
_RANDOM_LENGTH = 16
_DRAWN_AT_ONCE = 128
_drawn: list[str] = []
"""Random ends of request ids, drawn together: each drawing is a system call."""
# A forked worker must not give the ids of its siblings.
os.register_at_fork(after_in_child=_drawn.clear)


def new_request_id() -> str:
    """Give a ULID: 26 characters, sortable by time to the millisecond, 80 random bits."""
    if not _drawn:
        digits = os.urandom(_RANDOM_LENGTH * _DRAWN_AT_ONCE).translate(_RANDOM_DIGITS).decode()
        _drawn.extend(map("".join, batched(digits, _RANDOM_LENGTH)))
    return _time_digits(time.time_ns() // 1_000_000) + _drawn.pop()


@lru_cache(maxsize=2)
def _time_digits(milliseconds: int) -> str:
    return bytes([_CROCKFORD[milliseconds >> shift & 31] for shift in _DIGIT_SHIFTS]).decode()
