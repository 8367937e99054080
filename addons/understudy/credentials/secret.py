"""A secret that shows itself to no one by accident."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable

# Random for each process, so that not even a short or guessable secret can be tried offline
# against a fingerprint that reached a log.
_FINGERPRINT_KEY = secrets.token_bytes(32)
_FINGERPRINT_HEX_DIGITS = 8


class Secret:
    """Holds a secret; only :meth:`reveal` gives it out.

    ``str``, ``repr`` and ``format`` give a name and a fingerprint; pickle and JSON raise
    TypeError. Comparing takes constant time. The value stays in memory in the clear.
    """

    __slots__ = ("_fingerprint", "_reveal", "name")

    name: str
    """What audit and status call it: a variable's or a file's name."""
    _fingerprint: str
    _reveal: Callable[[], str]

    def __init__(self, value: str, name: str) -> None:
        digest = hmac.new(_FINGERPRINT_KEY, value.encode(), hashlib.sha256).hexdigest()
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_fingerprint", digest[:_FINGERPRINT_HEX_DIGITS])
        # Behind a function, because debuggers, inspect.getmembers and rich print attributes.
        object.__setattr__(self, "_reveal", lambda: value)

    def reveal(self) -> str:
        """The secret itself, for the one place that writes it into a request."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"<secret {self.name} {self._fingerprint}>"

    __str__ = __repr__

    def __format__(self, _: str) -> str:
        # No format specification is obeyed: one that cuts would make a fingerprint look whole.
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret cannot be serialized")
