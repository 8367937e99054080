"""Reflected secrets are taken out of responses: in headers, and in bodies as they stream."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.credentials.secret import Secret

MIN_SECRET_LENGTH = 8
"""Shorter secrets are not scrubbed: they would be found by accident everywhere."""
_BASE64_ALIGNMENTS = 3


@dataclass(frozen=True, slots=True)
class Forms:
    """Every form of some secrets that is looked for, and what stands in its place."""

    replacements: Mapping[bytes, bytes] = field(repr=False)
    pattern: re.Pattern[bytes] = field(repr=False)
    first_bytes: frozenset[int] = field(repr=False)
    longest: int


@lru_cache(maxsize=64)
def forms_of(pairs: tuple[tuple[Secret, str], ...]) -> Forms:
    """The forms of (secret, placeholder) pairs: raw, base64 at every alignment, URL-encoded,
    JSON-escaped. Not looked for: other encodings, secrets split by an upstream on purpose.
    """
    replacements: dict[bytes, bytes] = {}
    for secret, placeholder in pairs:
        value = secret.reveal().encode()
        if len(value) >= MIN_SECRET_LENGTH:
            for form in _forms(value):
                replacements.setdefault(form, placeholder.encode())
    longest_first = sorted(replacements, key=len, reverse=True)
    return Forms(
        replacements,
        re.compile(b"|".join(map(re.escape, longest_first))),
        frozenset(form[0] for form in longest_first),
        len(longest_first[0]) if longest_first else 0,
    )


class Scrubber:
    """Replaces secrets, in the forms that an echo gives them, by their placeholders.

    Works over any chunking of the body: bytes that may be the beginning of a secret are held back
    until the next chunk decides, and only those, so an event of a stream leaves at once.
    """

    def __init__(self, forms: Forms) -> None:
        self._replacements = forms.replacements
        self._pattern = forms.pattern
        self._first_bytes = forms.first_bytes
        self._longest = forms.longest
        self._held = b""
        self.count = 0
        """How many reflections were replaced so far."""

    def __bool__(self) -> bool:
        return bool(self._replacements)

    def scrub(self, data: bytes) -> bytes:
        """Replace in ``data``, which is whole: a header value, for instance."""
        if not self._replacements:
            return data
        cleaned, count = self._pattern.subn(lambda match: self._replacements[match[0]], data)
        self.count += count
        return cleaned

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of a body; give what is safe to send on now."""
        if not self._replacements:
            return data
        cleaned = self.scrub(self._held + data)
        keep = self._undecided(cleaned)
        self._held = cleaned[len(cleaned) - keep :]
        return cleaned[: len(cleaned) - keep]

    def close(self) -> bytes:
        """Give what was held back when the body ends."""
        held, self._held = self._held, b""
        return held

    def _undecided(self, data: bytes) -> int:
        """The length of the longest tail of ``data`` that a secret's form begins with."""
        for start in range(max(0, len(data) - self._longest + 1), len(data)):
            if data[start] in self._first_bytes:
                tail = data[start:]
                if any(form.startswith(tail) for form in self._replacements):
                    return len(tail)
        return 0


def _forms(value: bytes) -> list[bytes]:
    text = value.decode()
    forms = [
        value,
        urllib.parse.quote(text, safe="").encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text)[1:-1].replace("/", "\\/").encode(),
    ]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(_BASE64_ALIGNMENTS):
            # Only the characters that the secret alone determines, whatever stands around it.
            encoded = encode(b"\0" * shift + value).rstrip(b"=")
            start = (shift * 8 + 5) // 6
            end = (shift + len(value)) * 8 // 6
            forms.append(encoded[start:end])
    return forms
