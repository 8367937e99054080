"""What a client's requests have in common, and what was found out about it once. Pure.

An agent sends the same head again and again; between two requests little more changes than the
number in Content-Length. What is worked out from all the rest holds for the next request too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.wire.fields import Fields


class Outline:
    """Header fields and target of a request.

    ``lasts``: other requests have it too, so what is worked out is kept. ``length_varies``: the
    number in its Content-Length is of no request; :meth:`fill` puts that in.
    """

    __slots__ = ("_known", "_length_at", "_lines", "fields", "lasts", "target")

    def __init__(
        self, fields: Fields, target: bytes, *, lasts: bool = False, length_varies: bool = False
    ) -> None:
        self.lasts = lasts
        self.fields = fields
        self.target = target
        """Path and query."""
        self._length_at = _length_at(fields) if length_varies else None
        self._lines: tuple[bytes, bytes] | None = None
        self._known: dict[str, tuple[tuple[object, ...], Any]] = {}

    def fill(self, length: int | None) -> Fields:
        """The fields of one request, its own number in Content-Length."""
        at = self._length_at
        if at is None:
            return self.fields
        fields = self.fields
        return (*fields[:at], (fields[at][0], b"%d" % (length or 0)), *fields[at + 1 :])

    def lines(self, length: int | None) -> bytes:
        """The same fields as the lines of a head, without the empty one that ends it."""
        if self._lines is None:
            written = [b"%s: %s\r\n" % field for field in self.fields]
            at = self._length_at
            if at is None:
                self._lines = b"".join(written), b""
            else:
                before = b"".join(written[:at]) + self.fields[at][0]
                self._lines = before, b"".join(written[at + 1 :])
        before, behind = self._lines
        if self._length_at is None:
            return before
        return b"%s: %d\r\n%s" % (before, length or 0, behind)

    def changed(self, fields: Fields, target: bytes) -> Outline:
        """The outline of what was made of fields and target."""
        return Outline(fields, target, lasts=self.lasts, length_varies=self._length_at is not None)

    def once[R](self, step: str, basis: tuple[object, ...], work_out: Callable[[], R]) -> R:
        """What ``work_out`` made of this outline and ``basis``, done again only for another basis.

        One result is kept for each step. What does not depend on outline and basis alone must not
        be in it.
        """
        if not self.lasts:
            return work_out()
        known = self._known.get(step)
        if known is not None and known[0] == basis:
            kept: R = known[1]
            return kept
        result = work_out()
        self._known[step] = (basis, result)
        return result


def _length_at(fields: Fields) -> int | None:
    """Where the one Content-Length stands."""
    places = [i for i, (name, _) in enumerate(fields) if name.lower() == b"content-length"]
    if len(places) > 1:
        raise ValueError("more than one Content-Length")
    return places[0] if places else None
