"""Refused fields in a body that streams: found as it passes, without keeping it.

Small bodies are looked at whole (:func:`understudy.gateways.apply.refuse_body`). A prompt with
images is megabytes long; holding it back would cost memory and time, and letting it pass unread
would make length a way around the check. So this refuses whatever that one refuses.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

_STRUCTURE = re.compile(rb'[{}\[\]:,"]')
# All that well-formed JSON, Python's NaN and Infinity included, has between these and strings.
_STRAY = re.compile(rb"[^ \t\r\n0-9+\-.EINaefilnrstuy]")
_STRING_END = re.compile(rb'["\\]')
_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|([^u]))", re.DOTALL)
_UNFINISHED_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_SHORT_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_MAX_NAME_BYTES = 1024
_MAX_LEVELS = 1000
_LEVELS_LOOKED_AT = 2
_LONGEST_ESCAPE_BYTES = len("%5C%75%30%30%36%31")
_JSON_STARTS = (b"{", b"[")
_UTF8_MARK = b"\xef\xbb\xbf"
_ASCII_END = 0x80
# A name that is written in a way of RFC 2231 or under a coding is any name.
_HIDING = re.compile(rb";\s*name\*[0-9]*\*?\s*=|content-transfer-encoding:\s*(?:base64|quoted)")
# Text as its outline: letters and digits, what joins two words, all else.
_KINDS = bytes(
    ord("a") if chr(code).isalnum() and code < _ASCII_END else ord("_" if code in b"_-" else " ")
    for code in range(256)
)
_TWO_WORDS = b"aaa_aaa"
_ESCAPE_CHARACTERS = b"\\\0"
# JSON in UTF-16 or UTF-32 is all NULs to this scanner, and text to a gateway.
_UTF16_STARTS = (b"\0", b"\xff", b"\xfe")


class FieldScanner:
    """Looks for ``fields`` as names of a JSON object and one level below, chunk by chunk.

    A string that holds a JSON object counts as that object. A body that is not JSON is searched
    for the names as whole words, escaped as forms and as JSON strings escape them, or not at all;
    and so is one that ``is_form``, whatever it looks like: a body may be both.
    """

    def __init__(self, fields: frozenset[str], *, is_form: bool = False) -> None:
        self._fields = fields
        self._vocabulary = _vocabulary(fields)
        self._overlap = self._vocabulary.overlap_bytes
        self._names: _NameScanner | None = None
        self._is_json: bool | None = False if is_form else None
        self._tail = b""
        self._bare_tail = b""

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; true as soon as a refused field, or what hides one, is seen."""
        if self._is_json is None:
            self._tail += data
            start = self._tail.removeprefix(_UTF8_MARK).lstrip(b" \t\r\n")[:1]
            if not start or _UTF8_MARK.startswith(self._tail):
                # All that came is a mark and white space: any amount of it is as good as a little.
                self._tail = self._tail[: len(_UTF8_MARK) + 1]
                return False
            if start in _UTF16_STARTS:
                return True
            self._is_json = start in _JSON_STARTS
            self._names = _NameScanner(self._fields, _LEVELS_LOOKED_AT, strict=True)
            data, self._tail = self._tail.removeprefix(_UTF8_MARK), b""
        if self._is_json and self._names is not None:
            return b"\0" in data or self._names.feed(data)
        window = self._tail + data
        self._tail = window[-self._overlap :]
        # Parsers that leave a backslash out see one name, whatever number of them is in it.
        bare = self._bare_tail + data.translate(None, _ESCAPE_CHARACTERS)
        self._bare_tail = bare[-self._overlap :]
        unquoted = unquote_to_bytes(window)
        readings = {window, unquoted, unquote_to_bytes(bare), _ESCAPE.sub(_unescape, unquoted)}
        return any(self._vocabulary.mentioned(reading.lower()) for reading in readings) or _hides(
            window
        )


class _Vocabulary(NamedTuple):
    """Names to be found as whole words in lower-case text."""

    words: tuple[bytes, ...]
    single_words: tuple[bytes, ...]
    whole_word: re.Pattern[bytes]
    overlap_bytes: int
    """How much of what came before a chunk may be the beginning of a name in it."""

    def mentioned(self, text: bytes) -> bool:
        """Whether one of the names stands in ``text``."""
        # Looking for plain bytes is several times faster than the pattern, and mostly enough; most
        # of what is no text at all has nothing that a name of two words could be.
        words = self.words if _TWO_WORDS in text.translate(_KINDS) else self.single_words
        return any(word in text for word in words) and bool(self.whole_word.search(text))


@lru_cache(maxsize=16)
def _vocabulary(fields: frozenset[str]) -> _Vocabulary:
    words = tuple(field.encode() for field in sorted(fields))
    either = b"|".join(re.escape(word) for word in words)
    longest = max((len(field) for field in fields), default=0)
    return _Vocabulary(
        words,
        tuple(word for word in words if _TWO_WORDS not in word.translate(_KINDS)),
        re.compile(rb"(?<![0-9a-z_-])(?:" + either + rb")(?![0-9a-z_-])"),
        (longest + 2) * _LONGEST_ESCAPE_BYTES,
    )


def _hides(text: bytes) -> bool:
    lower = text.lower()
    return (b"name*" in lower or b"transfer-encoding" in lower) and bool(_HIDING.search(lower))


class _NameScanner:
    """Looks for ``fields`` as names of objects in JSON, ``levels`` deep.

    With ``strict`` what stands where JSON has nothing counts as a field: a more forgiving parser
    may read it, as it may names without quotes or in single ones.
    """

    def __init__(self, fields: frozenset[str], levels: int, *, strict: bool) -> None:
        self._fields = fields
        self._strict = strict
        self._levels = levels
        self._open: list[bytes] = []
        self._at_name = False
        self._in_string = False
        self._escaped = False
        self._name: bytearray | None = None
        self._value: _EmbeddedScanner | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; true as soon as a refused field is seen."""
        position = 0
        while position < len(data):
            if self._in_string:
                start = position
                position, ended = self._scan_string(data, position)
                if self._holds_refused_object(data[start : position - ended]):
                    return True
                if ended and self._ends_refused_name():
                    return True
                continue
            match = _STRUCTURE.search(data, position)
            between = data[position : match.start() if match else len(data)]
            if self._strict and between and _STRAY.search(between):
                return True
            if match is None:
                return False
            self._take(match[0])
            if len(self._open) > _MAX_LEVELS:
                return True
            position = match.end()
        return False

    def _scan_string(self, data: bytes, position: int) -> tuple[int, bool]:
        """Go on inside a string; gives the position behind, and whether the string ended."""
        if self._escaped:
            self._escaped = False
            self._keep(data[position : position + 1])
            return position + 1, False
        match = _STRING_END.search(data, position)
        end = len(data) if match is None else match.start()
        self._keep(data[position:end])
        if match is None:
            return end, False
        if match[0] == b"\\":
            self._escaped = True
            self._keep(b"\\")
            return match.end(), False
        self._in_string = False
        return match.end(), True

    def _keep(self, data: bytes) -> None:
        if self._name is not None:
            self._name += data[: _MAX_NAME_BYTES + 1 - len(self._name)]

    def _holds_refused_object(self, data: bytes) -> bool:
        if self._value is None:
            return False
        if self._value.feed(data):
            return True
        if self._value.is_object is False:
            self._value = None
        return False

    def _ends_refused_name(self) -> bool:
        self._value = None
        if self._name is None:
            return False
        name, self._name = bytes(self._name), None
        if len(name) > _MAX_NAME_BYTES:
            return True
        try:
            return json.loads(b'"' + name + b'"', strict=False).casefold() in self._fields
        except ValueError:
            return True

    def _take(self, character: bytes) -> None:
        if character == b'"':
            self._in_string = True
            wanted = self._at_name and len(self._open) <= self._levels
            self._name = bytearray() if wanted else None
            if not self._at_name and self._open == [b"{"] and self._levels > 1:
                # LiteLLM also reads metadata that is JSON inside a string.
                self._value = _EmbeddedScanner(self._fields)
        elif character in _JSON_STARTS:
            self._open.append(character)
            self._at_name = character == b"{"
        elif character in (b"}", b"]"):
            if self._open:
                self._open.pop()
            self._at_name = False
        else:
            self._at_name = character == b"," and self._open[-1:] == [b"{"]


class _EmbeddedScanner:
    """Looks for ``fields`` in a JSON object that is written as a JSON string."""

    def __init__(self, fields: frozenset[str]) -> None:
        self.is_object: bool | None = None
        self._names = _NameScanner(fields, 1, strict=False)
        self._unread = b""

    def feed(self, data: bytes) -> bool:
        """Take the string's next bytes, escapes and all."""
        data = self._unread + data
        # An escaped backslash ends no escape: what stands before an odd one is whole.
        whole = _ESCAPE.sub(b"", data)
        cut = _UNFINISHED_ESCAPE.search(whole)
        keep = len(cut[0]) if cut else 0
        self._unread = data[len(data) - keep :]
        text = _ESCAPE.sub(_unescape, data[: len(data) - keep])
        if self.is_object is None:
            start = text.lstrip(b" \t\r\n")[:1]
            if not start:
                return False
            self.is_object = start == b"{"
        return self.is_object and self._names.feed(text)


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return _SHORT_ESCAPES.get(match[2], match[2])
    code = int(match[1], 16)
    return bytes([code]) if code < _ASCII_END else b"?"
