"""Reflected secrets are taken out of responses: in headers, and in bodies as they stream."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from understudy.credentials.forms import echoes
from understudy.credentials.readings import around, escapes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from understudy.credentials.readings import Escapes, Reading
    from understudy.credentials.secret import Secret

MIN_SECRET_LENGTH = 8
"""Shorter secrets are not scrubbed: they would be found by accident everywhere."""

type Fields = tuple[tuple[bytes, bytes], ...]

_FEW_BYTES = 2048
_SHORT_BYTES = 4096
_GRAM = 4
_HEAD = 32
_MIN_STRIDE, _MAX_STRIDE = 16, 64
"""With shorter steps than this, taking samples lasts as long as searching."""
_PREPARED_SETS = 64


class Guarded(NamedTuple):
    """A secret that may come back, and what stands in its place."""

    connection: str
    secret: Secret
    placeholder: str


class Found(NamedTuple):
    """A form of a secret, in the bytes where it was found."""

    start: int
    end: int
    form: bytes


@dataclass(frozen=True, slots=True)
class Forms:
    """Every form of some secrets that is looked for, prepared for searching."""

    replacements: Mapping[bytes, tuple[str, bytes]] = field(repr=False)
    """Form → (connection, placeholder); the longest first."""
    needles: tuple[bytes, ...] = field(repr=False)
    """Where none of these is, no form is."""
    heads: re.Pattern[bytes] = field(repr=False)
    """Where this does not match, no form begins."""
    begins: re.Pattern[bytes] = field(repr=False)
    """The same for a form's first bytes only."""
    edges: frozenset[bytes] = field(repr=False)
    """Ends of a text that are too short for ``begins``, and may be the beginning of a form."""
    alphabet: bytes = field(repr=False)
    longest: int
    grams: frozenset[bytes] = field(repr=False)
    """The four bytes from each of a form's first ``stride`` places on."""
    stride: int
    """Of any so many places in a row within a form, one of the first begins one of ``grams``."""
    escapes: Escapes = field(repr=False)

    def find(self, text: bytes, start: int = 0) -> Found | None:
        """The leftmost form from ``start`` on, the longest where several begin."""
        while head := self.heads.search(text, start):
            start = head.start()
            for form in self.replacements:
                if text.startswith(form, start):
                    return Found(start, start + len(form), form)
            start += 1
        return None

    def is_in(self, text: bytes) -> bool:
        """Whether any form is in ``text``."""
        if len(text) <= _SHORT_BYTES and self.stride >= _MIN_STRIDE:
            # A form that stands anywhere holds at least one of the samples.
            samples = [text[at : at + _GRAM] for at in range(0, len(text), self.stride)]
            if self.grams.isdisjoint(samples):
                return False
        elif len(text) > _FEW_BYTES:
            # Substring search skips ahead: it is quicker for each needle than one alternation.
            return any(needle in text for needle in self.needles)
        return bool(self.replacements) and self.find(text) is not None

    def is_new_in(self, reading: Reading) -> bool:
        """Whether any form is in the reading that is in none of those below it."""
        text, places = reading.text, reading.places
        if len(places) * self.longest > len(text):
            return self.is_in(text)
        regions = around(places, self.longest, len(text))
        return any(self.is_in(text[start:end]) for start, end in regions)

    def undecided(self, text: bytes) -> int:
        """Where the first tail of ``text`` begins that a form could go on from; else its end."""
        start = max(0, len(text) - self.longest + 1)
        # A tail of forms' own characters only: mostly a word, or nothing.
        start += len(text[start:].rstrip(self.alphabet))
        at = start
        while begin := self.begins.search(text, at):
            at, size = begin.start(), len(text) - begin.start()
            for form in self.replacements:
                if len(form) > size and text.startswith(form[:size], at):
                    return at
            at += 1
        for at in range(max(start, len(text) - _GRAM + 1), len(text)):
            if text[at:] in self.edges:
                return at
        return len(text)


_prepared: dict[tuple[str, ...], tuple[tuple[Guarded, ...], Forms]] = {}
"""For each set of connections, the secrets that they had last."""


def forms_of(guarded: tuple[Guarded, ...]) -> Forms:
    """The forms of these secrets; see :func:`understudy.credentials.forms.echoes`.

    Where two connections have one and the same secret, the first one's placeholder stands for it.
    They are kept until one of the connections has another secret: one that was replaced does not
    stay in memory.
    """
    connections = tuple(dict.fromkeys([connection for connection, _, _ in guarded]))
    known = _prepared.get(connections)
    if known is not None and known[0] == guarded:
        return known[1]
    forms = _prepare(guarded)
    if len(_prepared) >= _PREPARED_SETS:
        _prepared.clear()
    _prepared[connections] = guarded, forms
    return forms


def _prepare(guarded: tuple[Guarded, ...]) -> Forms:
    found: dict[bytes, tuple[str, bytes]] = {}
    for connection, secret, placeholder in guarded:
        value = secret.reveal()
        if len(value) >= MIN_SECRET_LENGTH:
            for form, written in echoes(value, placeholder).items():
                found.setdefault(form, (connection, written))
    alphabet = bytes(sorted({byte for form in found for byte in form}))
    escapes = escapes_of(alphabet)
    for form, replacement in tuple(found.items()):
        # What is an escape in the secret itself is taken off with those around it.
        for reading in escapes.read(form, is_whole=True):
            if len(reading.text) >= MIN_SECRET_LENGTH:
                found.setdefault(reading.text, replacement)
    longest_first = sorted(found, key=lambda form: (-len(form), form))
    shortest = len(longest_first[-1]) if longest_first else 0
    stride = max(0, min(shortest - _GRAM + 1, _MAX_STRIDE))
    heads = _any_of(form[:_HEAD] for form in longest_first)
    begins = _any_of(form[:_GRAM] for form in longest_first)
    # It keeps the last 512 patterns, and with them the secrets.
    re.purge()
    return Forms(
        {form: found[form] for form in longest_first},
        _needles(longest_first),
        heads,
        begins,
        frozenset(form[:size] for form in found for size in range(1, _GRAM)),
        alphabet,
        len(longest_first[0]) if longest_first else 0,
        frozenset(form[i : i + _GRAM] for form in found for i in range(stride)),
        stride,
        escapes,
    )


def _any_of(parts: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, dict.fromkeys(parts))))


def _needles(longest_first: list[bytes]) -> tuple[bytes, ...]:
    """Few strings of which each form holds one: a search takes about as long as there are many."""
    needles: list[bytes] = []
    for form in reversed(longest_first):
        if not any(needle in form for needle in needles):
            needles.append(form)
    return tuple(needles)


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
        return self._clean(data, is_whole=True)[0] if self else data

    def scrub_fields(self, fields: Iterable[tuple[bytes, bytes]]) -> Fields:
        """Replace in the names and values of header fields."""
        whole = tuple(fields)
        joined = b"\n".join([part for pair in whole for part in pair])
        if not self or not any(self._seen(self._forms.escapes.read(joined, is_whole=True))):
            return whole
        return tuple((self.scrub(name), self.scrub(value)) for name, value in whole)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of a body; give what is safe to send on now."""
        if not self:
            return data
        data = self._held + data if self._held else data
        clean, self._held = self._clean(data, is_whole=False)
        return clean

    def close(self) -> bytes:
        """Give what was held back when the body ends."""
        held, self._held = self._held, b""
        return self.scrub(held)

    def _seen(self, readings: list[Reading]) -> list[bool]:
        """In which of them there is a form, that is not in one before it."""
        forms, (data, *deeper) = self._forms, readings
        return [forms.is_in(data.text), *map(forms.is_new_in, deeper)]

    def _clean(self, data: bytes, *, is_whole: bool) -> tuple[bytes, bytes]:
        """Clean bytes, and those which only what follows them decides about."""
        forms = self._forms
        pieces: list[bytes] = []
        while True:
            readings = forms.escapes.read(data, is_whole=is_whole)
            if len(readings) == 1 and not pieces and not forms.is_in(data):
                # Nothing to be found and no escapes: so it is nearly always.
                hold = len(data) if is_whole else forms.undecided(data)
                return data[:hold], data[hold:]
            hold = len(data) if is_whole else self._hold(readings)
            searched = [
                reading
                for reading, seen in zip(readings, self._seen(readings), strict=True)
                if seen
            ]
            end, is_done = self._replace_in(data, hold, searched, readings[-1], pieces)
            if is_done:
                rest = data[end:hold] if end else data[:hold]
                return b"".join((*pieces, rest)) if pieces else rest, data[hold:]
            # The next escapes are read from here on: what was replaced may have ended inside one.
            data = data[end:]

    def _hold(self, readings: list[Reading]) -> int:
        forms, deepest = self._forms, readings[-1]
        hold = min(reading.source(forms.undecided(reading.text)) for reading in readings)
        # An escape is not torn: its rest would be read as something else.
        return hold if len(readings) == 1 else deepest.source(deepest.position(hold))

    def _replace_in(
        self,
        data: bytes,
        hold: int,
        searched: list[Reading],
        deepest: Reading,
        pieces: list[bytes],
    ) -> tuple[int, bool]:
        """Replace what begins before ``hold``; where that ended, and whether all is done."""
        start = 0
        while searched:
            candidates = [
                found
                for reading in searched
                if (found := self._find(reading, start)) and found.start < hold
            ]
            if not candidates:
                break
            # Of one start the longest form, and as few escapes around it as it can be found with.
            found = min(candidates, key=lambda one: (one.start, -len(one.form)))
            connection, placeholder = self._forms.replacements[found.form]
            self.found[connection] = self.found.get(connection, 0) + 1
            pieces += data[start : found.start], placeholder
            start = found.end
            if start > hold or deepest.source(deepest.position(start)) != start:
                return start, False
        return start, True

    def _find(self, reading: Reading, start: int) -> Found | None:
        position = reading.position(start)
        if reading.source(position) < start:
            position += 1
        found = self._forms.find(reading.text, position)
        if found is None:
            return None
        return Found(reading.source(found.start), reading.source(found.end), found.form)
