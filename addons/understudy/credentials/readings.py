"""Bytes with their escapes taken off, and where each of them stood: URL, JSON and HTML, in layers.

Any character may be escaped or not, in either case and as often as three times, and one escape in
another. So a secret is found whichever encoder wrote it, and no list of encoders is needed.
"""

from __future__ import annotations

import html.entities
import re
import string
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LAYERS = 3
_LONGEST_ESCAPE = 24
_FAR_APART = 20 * _LONGEST_ESCAPE
"""From this on it is quicker to look around each of several places than at everything."""
_SAMPLE, _DENSE = 512, 64
"""Where more of so many bytes begin escapes, it is not worth it to skip from each to the next."""
_DIGITS = string.hexdigits[:16]
_OF_ESCAPES = b"%\\&#;" + (string.digits + string.ascii_letters).encode()
"""What escapes are made of: itself escaped where there are several layers."""
_NAMED = {
    name.encode(): ord(char)
    for name, char in html.entities.html5.items()
    if name.endswith(";") and len(char) == 1 and char.isascii()
}
_UNFINISHED = re.compile(
    rb"(?:%[2-7]?"
    rb"|\\(?:\\{0,7}|u(?:0(?:0[2-7]?)?)?|x[2-7]?)"
    rb"|&(?:#(?:0{0,3}[0-9]{0,3}|[xX]0{0,3}[2-7]?[0-9a-fA-F]?)|[A-Za-z]{0,18})?)\Z"
)


class Reading:
    """What some bytes say with one layer of escapes taken off, or with none.

    ``places`` are those in ``text`` of the characters that were escaped; ``begins`` and ``ends``
    say where their escapes stand in the text of the reading ``below``.
    """

    __slots__ = ("_begins", "_below", "_ends", "places", "text")

    def __init__(
        self,
        text: bytes,
        below: Reading | None = None,
        escapes: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((), (), ()),
    ) -> None:
        self.text = text
        self._below = below
        self._begins, self._ends, self.places = escapes

    def source(self, position: int) -> int:
        """Where in the bytes themselves the character at ``position`` begins."""
        nth = bisect_right(self.places, position) - 1
        if nth >= 0:
            beyond = position - self.places[nth]
            position = self._ends[nth] + beyond - 1 if beyond else self._begins[nth]
        return self._below.source(position) if self._below is not None else position

    def position(self, source: int) -> int:
        """Which character holds the byte at ``source``."""
        below = self._below.position(source) if self._below is not None else source
        nth = bisect_right(self._begins, below) - 1
        if nth < 0:
            return below
        return self.places[nth] + max(0, below - self._ends[nth] + 1)


class Escapes:
    """Finds the escapes of some characters, and of those that escapes are made of."""

    def __init__(self, characters: bytes) -> None:
        codes = sorted({code for code in (*characters, *_OF_ESCAPES) if 0x20 <= code < 0x7F})  # noqa: PLR2004 - printable
        hexadecimal = _hexadecimal(codes)
        decimal = b"|".join(b"%d" % code for code in codes)
        named = b"|".join(name[:-1] for name, code in _NAMED.items() if code in codes)
        signs = re.escape(bytes(code for code in codes if code in b"\"'/`") or b"/")
        # An escaped backslash mostly says nothing, unless it is in a secret or begins an escape.
        deeper = b"" if b"\\" in characters else rb"(?=\\{0,6}[ux\"'/`])"
        # One for each first byte: so the search skips from one of these to the next.
        self._each = (
            re.compile(rb"%%(?:%s)" % hexadecimal),
            re.compile(rb"\\(?:(?:u00|x)(?:%s)|\\%s|[%s])" % (hexadecimal, deeper, signs)),
            re.compile(
                rb"&(?:#(?:0{0,3}(?:%s)|[xX]0{0,3}(?:%s))|%s);" % (decimal, hexadecimal, named)
            ),
        )
        self._any = re.compile(b"(%s)" % b"|".join(pattern.pattern for pattern in self._each))

    def read(self, data: bytes, *, is_whole: bool) -> list[Reading]:
        """``data`` as it is, then with one layer of escapes less each, as long as there are any.

        Where more of it is to come, what may be the beginning of an escape at the end is not read.
        """
        reading = Reading(data)
        readings = [reading]
        if b"%" not in data and b"\\" not in data and b"&" not in data:
            return readings
        places: Sequence[int] | None = None
        while len(readings) <= _LAYERS:
            text = reading.text
            parts = self._split(text, places)
            end = len(text)
            if not is_whole:
                begin = max(end - len(parts[-1]), end - _LONGEST_ESCAPE)
                unfinished = _UNFINISHED.search(text, begin)
                end = unfinished.start() if unfinished else end
            if len(parts) == 1 and end == len(text):
                break
            parts[-1] = parts[-1][: len(parts[-1]) - len(text) + end]
            reading = _join(parts, reading)
            readings.append(reading)
            places = reading.places
        return readings

    def _split(self, text: bytes, places: Sequence[int] | None) -> list[bytes]:
        """Plain text and escapes by turns. ``places``: only where others were taken off."""
        regions: Iterable[tuple[int, int]] = ((0, len(text)),)
        if places is not None and _SAMPLE < len(places) * _FAR_APART < len(text):
            regions = around(places, _LONGEST_ESCAPE, len(text))
        elif len(text) < _SAMPLE or sum(map(text[:_SAMPLE].count, (b"%", b"\\", b"&"))) > _DENSE:
            return self._any.split(text)
        spans = sorted(
            match.span()
            for start, end in regions
            for pattern in self._each
            for match in pattern.finditer(text, start, end)
        )
        cuts = [0, *chain.from_iterable(spans), len(text)]
        return [text[start:end] for start, end in pairwise(cuts)]


def _join(parts: list[bytes], below: Reading) -> Reading:
    """What the parts say with each escape as its one character. Changes them."""
    stops = list(accumulate(map(len, parts)))
    parts[1::2] = map(_character, parts[1::2])
    places = list(accumulate(map(len, parts)))[:-1:2]
    return Reading(b"".join(parts), below, (stops[:-1:2], stops[1::2], places))


@lru_cache(maxsize=64)
def escapes_of(characters: bytes) -> Escapes:
    """The escapes of these characters."""
    return Escapes(characters)


def around(places: Iterable[int], reach: int, length: int) -> Iterator[tuple[int, int]]:
    """The stretches of a text of ``length`` within ``reach`` of any of the places, in order."""
    start = end = 0
    for place in places:
        if place - reach > end:
            if end:
                yield start, end
            start = place - reach
        end = min(place + reach, length)
    if end:
        yield start, end


def _hexadecimal(codes: Iterable[int]) -> bytes:
    """A pattern of these codes in two digits of either case."""
    seconds: dict[str, str] = {}
    for code in codes:
        first, second = _DIGITS[code >> 4], _DIGITS[code & 15]
        seconds[first] = seconds.get(first, "") + second + second.upper()
    return "|".join(f"{first}[{second}]" for first, second in seconds.items()).encode()


@lru_cache(maxsize=1024)
def _character(escape: bytes) -> bytes:
    kind, rest = escape[:1], escape[1:]
    if kind == b"%":
        code = int(rest, 16)
    elif kind == b"\\":
        code = int(rest[-2:], 16) if len(rest) > 1 else rest[0]
    elif rest[:1] == b"#":
        code = int(rest[2:-1], 16) if rest[1:2] in b"xX" else int(rest[1:-1])
    else:
        code = _NAMED[rest]
    return bytes((code,))
