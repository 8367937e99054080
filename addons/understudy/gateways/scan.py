"""Refused fields in a body that streams: found as it passes, without keeping it.

Small bodies are looked at whole (:func:`understudy.gateways.apply.refuse_body`). A prompt with
images is megabytes long; holding it back would cost memory and time, and letting it pass unread
would make length a way around the check.
"""

from __future__ import annotations

import json
import re

_STRUCTURE = re.compile(rb'[{}\[\]:,"]')
_STRING_END = re.compile(rb'["\\]')
_MAX_NAME_BYTES = 1024
_LEVELS_LOOKED_AT = 2
_JSON_STARTS = (b"{", b"[")


class FieldScanner:
    """Looks for ``fields`` as names of a JSON object and one level below, chunk by chunk.

    A body that is not JSON is searched for the names as whole words.
    """

    def __init__(self, fields: frozenset[str]) -> None:
        self._fields = fields
        words = b"|".join(re.escape(field.encode()) for field in sorted(fields))
        self._words = re.compile(rb"(?<![0-9A-Za-z_-])(?:" + words + rb")(?![0-9A-Za-z_-])")
        self._overlap = max((len(field) for field in fields), default=0) + 2
        self._is_json: bool | None = None
        self._tail = b""
        self._open: list[bytes] = []
        self._at_name = False
        self._in_string = False
        self._escaped = False
        self._name: bytearray | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; true as soon as a refused field, or what hides one, is seen."""
        if self._is_json is None:
            self._tail += data
            start = self._tail.lstrip(b" \t\r\n")[:1]
            if not start:
                return False
            self._is_json = start in _JSON_STARTS
            data, self._tail = self._tail, b""
        if not self._is_json:
            window = self._tail + data
            self._tail = window[-self._overlap :]
            return bool(self._words.search(window))
        # JSON in UTF-16 or UTF-32 is all NULs to this scanner, and text to a gateway.
        return b"\0" in data or self._scan(data)

    def _scan(self, data: bytes) -> bool:
        position = 0
        while position < len(data):
            if self._in_string:
                position, ended = self._scan_string(data, position)
                if ended and self._ends_refused_name():
                    return True
                continue
            match = _STRUCTURE.search(data, position)
            if match is None:
                return False
            self._take(match[0])
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

    def _ends_refused_name(self) -> bool:
        if self._name is None:
            return False
        name, self._name = bytes(self._name), None
        if len(name) > _MAX_NAME_BYTES:
            return True
        try:
            return json.loads(b'"' + name + b'"', strict=False) in self._fields
        except ValueError:
            return True

    def _take(self, character: bytes) -> None:
        if character == b'"':
            self._in_string = True
            wanted = self._at_name and len(self._open) <= _LEVELS_LOOKED_AT
            self._name = bytearray() if wanted else None
        elif character in _JSON_STARTS:
            self._open.append(character)
            self._at_name = character == b"{"
        elif character in (b"}", b"]"):
            if self._open:
                self._open.pop()
            self._at_name = False
        else:
            self._at_name = character == b"," and self._open[-1:] == [b"{"]
