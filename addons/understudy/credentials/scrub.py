"""Reflected secrets are taken out of responses: in headers, and in bodies as they stream."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from understudy.credentials.forms import echoes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from understudy.credentials.secret import Secret

MIN_SECRET_LENGTH = 8
"""Shorter secrets are not scrubbed: they would be found by accident everywhere."""

_UNTOUCHED = re.compile(rb"[0-9A-Za-z]+")

type Fields = tuple[tuple[bytes, bytes], ...]

_FEW_BYTES = 2048
_SHORT_BYTES = 4096
_GRAM = 4
_MIN_STRIDE = 16
"""With shorter steps than this, taking samples lasts as long as searching."""
_PREPARED_SETS = 64


class Guarded(NamedTuple):
    """A secret that may come back, and what stands in its place."""

    connection: str
    secret: Secret
    placeholder: str


@dataclass(frozen=True, slots=True)
class Forms:
    """Every form of some secrets that is looked for, prepared for searching."""

    replacements: Mapping[bytes, tuple[str, bytes]] = field(repr=False)
    """Form → (connection, placeholder)."""
    needles: tuple[bytes, ...] = field(repr=False)
    """Where none of these is, no form is."""
    pattern: re.Pattern[bytes] = field(repr=False)
    """The leftmost form, the longest where several begin."""
    in_order: tuple[bytes, ...] = field(repr=False)
    alphabet: bytes = field(repr=False)
    longest: int
    grams: frozenset[bytes] = field(repr=False)
    """Every four bytes in a row that some form holds."""
    stride: int
    """Of any so many places in a row within a form, each begins one of its ``grams``."""


_prepared: dict[tuple[str, ...], tuple[tuple[Guarded, ...], Forms]] = {}
"""For each set of connections, the secrets that they had last."""


def forms_of(guarded: tuple[Guarded, ...]) -> Forms:
    """The forms of these secrets; see :func:`understudy.credentials.forms.echoes`.

    Where two connections have one and the same secret, the first one's placeholder stands for it.
    They are kept until one of the connections has another secret: one that was replaced does not
    stay in memory.
    """
    connections = tuple([connection for connection, _, _ in guarded])
    known = _prepared.get(connections)
    if known is not None and known[0] == guarded:
        return known[1]
    forms = _prepare(guarded)
    if len(_prepared) >= _PREPARED_SETS:
        _prepared.clear()
    _prepared[connections] = guarded, forms
    return forms


def _prepare(guarded: tuple[Guarded, ...]) -> Forms:
    replacements: dict[bytes, tuple[str, bytes]] = {}
    for connection, secret, placeholder in guarded:
        value = secret.reveal()
        if len(value) >= MIN_SECRET_LENGTH:
            for form in echoes(value):
                replacements.setdefault(form, (connection, placeholder.encode()))
    shortest_first = sorted(replacements, key=len)
    pattern = re.compile(b"|".join(map(re.escape, reversed(shortest_first))))
    # It keeps the last 512 patterns, and with them the secrets.
    re.purge()
    return Forms(
        replacements,
        _needles(shortest_first),
        pattern,
        tuple(sorted(replacements)),
        bytes({byte for form in replacements for byte in form}),
        len(shortest_first[-1]) if shortest_first else 0,
        frozenset(
            form[i : i + _GRAM] for form in replacements for i in range(len(form) - _GRAM + 1)
        ),
        len(shortest_first[0]) - _GRAM + 1 if shortest_first else 0,
    )


def _needles(shortest_first: list[bytes]) -> tuple[bytes, ...]:
    """Few, long strings of which each form holds one: the forms, or parts that no encoder touches.

    A search takes about as many steps as the data has needles' lengths.
    """
    forms: list[bytes] = []
    parts: list[bytes] = []
    for form in shortest_first:
        if not any(needle in form for needle in forms):
            forms.append(form)
        if not any(needle in form for needle in parts):
            part = max(_UNTOUCHED.findall(form), key=len, default=b"")
            parts.append(part if len(part) >= MIN_SECRET_LENGTH else form)
    return tuple(min(forms, parts, key=lambda needles: sum(1 / len(n) for n in needles)))


class Scrubber:
    """Replaces secrets, in the forms that an echo gives them, by their placeholders.

    Gives the same bytes for any chunking of a body: what may be the beginning of a secret is held
    back until the next chunk decides, and only that, so an event of a stream leaves at once.
    """

    def __init__(self, forms: Forms) -> None:
        self._forms = forms
        self._held = b""
        self.found: dict[str, int] = {}
        """How many reflections were replaced so far, by connection."""

    def __bool__(self) -> bool:
        return bool(self._forms.replacements)

    def scrub(self, data: bytes) -> bytes:
        """Replace in ``data``, which is whole."""
        return self._forms.pattern.sub(self._replace, data) if self._is_seen(data) else data

    def scrub_fields(self, fields: Iterable[tuple[bytes, bytes]]) -> Fields:
        """Replace in the names and values of header fields."""
        whole = tuple(fields)
        if not self._is_seen(b"\n".join([part for pair in whole for part in pair])):
            return whole
        return tuple((self.scrub(name), self.scrub(value)) for name, value in whole)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of a body; give what is safe to send on now."""
        if not self._forms.replacements:
            return data
        if self._held:
            data = self._held + data
        hold = self._undecided(data, 0)
        pieces: list[bytes] = []
        start = 0
        if self._is_seen(data):
            while (match := self._forms.pattern.search(data, start)) and match.start() < hold:
                pieces += data[start : match.start()], self._replace(match)
                start = match.end()
                if start > hold:
                    hold = self._undecided(data, start)
        self._held = data[hold:]
        return b"".join((*pieces, data[start:hold])) if start else data[:hold]

    def close(self) -> bytes:
        """Give what was held back when the body ends."""
        held, self._held = self._held, b""
        return self.scrub(held)

    def _is_seen(self, data: bytes) -> bool:
        forms = self._forms
        if len(data) < _GRAM:
            return False
        if len(data) <= _SHORT_BYTES and forms.stride >= _MIN_STRIDE:
            # A form that stands anywhere holds at least one of the samples.
            samples = [data[at : at + _GRAM] for at in range(0, len(data), forms.stride)]
            if forms.grams.isdisjoint(samples):
                return False
        elif len(data) > _FEW_BYTES:
            # Substring search skips ahead: it is quicker for each needle than one alternation.
            return any(needle in data for needle in forms.needles)
        return bool(forms.replacements) and forms.pattern.search(data) is not None

    def _replace(self, match: re.Match[bytes]) -> bytes:
        connection, placeholder = self._forms.replacements[match[0]]
        self.found[connection] = self.found.get(connection, 0) + 1
        return placeholder

    def _undecided(self, data: bytes, start: int) -> int:
        """Where from ``start`` on the first tail of ``data`` begins that a form could go on from.

        The end of ``data`` where there is none.
        """
        forms = self._forms
        start = max(start, len(data) - forms.longest + 1)
        # A tail of forms' own characters only: mostly a word, or nothing.
        start += len(data[start:].rstrip(forms.alphabet))
        for position in range(start, len(data)):
            tail = data[position:]
            index = bisect_left(forms.in_order, tail)
            while index < len(forms.in_order) and forms.in_order[index].startswith(tail):
                if len(forms.in_order[index]) > len(tail):
                    return position
                index += 1
        return len(data)
