"""Paths as servers may read them, and the patterns that a policy writes.

Servers disagree on escapes, empty segments and ``;parameters``. A path is therefore judged in
every reading that a server may make of it, and refused where no reading is safe.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

_DECODINGS = 2
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
# Nearly every path: one reading, nothing to decide. No escape, parameter, empty or dot segment.
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.~!$&'()*+,=:@-]+)*/?(?<=.)", re.DOTALL)
_AS_SENT_REFUSED = re.compile(r"[^\x21-\x7e]|[\\#?]|%(?![0-9a-fA-F]{2})")
# Control characters, the backslash, and every overlong UTF-8 form of . / and \ (CVE-2000-0884).
_LONGER = r"\xe0|\xf0\x80|\xf8\x80{2}|\xfc\x80{3}"
_REFUSED = re.compile(
    rf"[\x00-\x1f\x7f\\]|(?:\xc0|(?:{_LONGER})\x80)[\xae\xaf]|(?:\xc1|(?:{_LONGER})\x81)\x9c"
)
# The escape is looked for in every reading, so that a third encoding hides nothing.
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)
_PARAMETERS = re.compile(r";[^/]*")
_EMPTY_SEGMENTS = re.compile(r"/{2,}")
# Decoded before it was split, an escaped ? or # ends the path.
_BEHIND_THE_PATH = re.compile(r"[?#].*", re.DOTALL)

# Stand-ins for the wildcards while a pattern's literal text is decoded; no byte maps to them.
_STAR = "\U000f0001"
_GLOBSTAR = "\U000f0002"
_ANY_SEGMENTS = r"(?:/[^/]*+)*?"


class PathError(ValueError):
    """A path that no policy can judge, or a pattern that cannot be one."""


def readings(path: str) -> tuple[str, ...]:
    """Return every reading that a server may make of ``path``, the first as it was sent.

    The readings are the closure of: percent-decode (at most twice, each byte one character), merge
    empty segments, remove ``;parameters``, end at a decoded ``?`` or ``#``, take full-width letters
    and signs for ASCII's. ``path`` comes without its query. Raises :class:`PathError` where a
    reading holds a dot segment, control characters or a backslash, or where the path as sent holds
    a fragment, a query, raw non-ASCII or a broken escape.
    """
    if _PLAIN.fullmatch(path):
        return (path,)
    if not path.startswith("/"):
        raise PathError("a path starts with /")
    if _AS_SENT_REFUSED.search(path):
        raise PathError("control characters, spaces, \\, #, ?, non-ASCII or a broken escape")
    decodings = {path: 0}
    pending = [path]
    for reading in pending:
        if _REFUSED.search(reading):
            raise PathError("a control character or backslash behind an escape")
        if _DOT_SEGMENT.search(reading):
            raise PathError("a dot segment")
        spent = decodings[reading]
        steps = [
            (_EMPTY_SEGMENTS.sub("/", reading), spent),
            (_PARAMETERS.sub("", reading), spent),
            (_BEHIND_THE_PATH.sub("", reading), spent),
            (_narrow(reading), spent),
        ]
        if spent < _DECODINGS:
            steps.append((_decode(reading), spent + 1))
        for text, cost in steps:
            # Reached again with decodings to spare, a text may lead further: look at it again.
            if text not in decodings or cost < decodings[text]:
                decodings[text] = cost
                pending.append(text)
    return tuple(decodings)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """``*`` matches within one segment, ``**`` across segments; everything else is literal.

    ``**`` stands alone between slashes (any number of segments, none included) or ends the
    pattern. An escape in a pattern matches the escape, in either case, and what it decodes to,
    so that ``/@scope%2f*`` passes in every reading. Matching takes time linear in the path.
    """

    text: str
    regex: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Read a pattern as a policy writes it; raises :class:`PathError` with the way out."""
        if not text.startswith("/"):
            raise PathError(f"{text!r}: a path pattern starts with /")
        if "***" in text:
            raise PathError(f"{text!r}: * matches within a segment, ** across; *** is neither")
        if "?" in text or "#" in text:
            raise PathError(f"{text!r}: the query and the fragment are not part of a path")
        if _AS_SENT_REFUSED.search(text):
            raise PathError(
                f"{text!r}: write spaces and non-ASCII as percent-escapes, each % with two hex "
                "digits, and no backslash"
            )
        marked = text.replace("**", _GLOBSTAR).replace("*", _STAR)
        forms = [marked]
        while len(forms) <= _DECODINGS and (decoded := _decode(forms[-1])) != forms[-1]:
            forms.append(decoded)
        for form in forms:
            if "//" in form or _REFUSED.search(form) or _DOT_SEGMENT.search(form):
                raise PathError(
                    f"{text!r} can never match: a path with a dot segment, an empty segment, a "
                    "backslash or control characters does not pass"
                )
            if _BEHIND_THE_PATH.search(form):
                raise PathError(
                    f"{text!r} can never match: some servers end the path at an escaped ? or #; "
                    "write * from there on"
                )
        alternatives = "|".join(_expression(form, text) for form in forms)
        return cls(text, re.compile(alternatives, re.DOTALL))

    def matches(self, reading: str) -> bool:
        """Whether one reading of a path is matched, all of it."""
        return self.regex.fullmatch(reading) is not None

    def covers(self, other: PathPattern) -> bool:
        """Whether every path that ``other`` matches is matched here; False where it is unsure."""
        if self.text == other.text:
            return True
        prefix = self.text.removesuffix("**")
        return prefix != self.text and "*" not in prefix and other.text.startswith(prefix)


def _decode(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _narrow(text: str) -> str:
    """Write as ASCII what Unicode has as another form of it (NFKC), as some servers do."""
    if text.isascii():
        return text
    try:
        wide = text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
    narrow = [n if (n := unicodedata.normalize("NFKC", c)).isascii() else c for c in wide]
    return "".join(narrow).encode("utf-8").decode("latin-1")


def _expression(form: str, text: str) -> str:
    """Write a marked pattern as a regular expression without super-linear backtracking.

    Between two ``/**/`` stands a fixed number of segments, so its first place is as good as any
    later one and the group may be atomic.
    """
    *inner, last = form.split("/")[1:]
    expression, group, floats = "", "", False
    for segment in inner:
        if segment != _GLOBSTAR:
            group += "/" + _segment(segment, text, is_open=False)
            continue
        expression += rf"(?>{_ANY_SEGMENTS}{group}(?=/|\Z))" if floats else group
        group, floats = "", True
    is_open = last.endswith(_GLOBSTAR)
    group += "/" + _segment(last.removesuffix(_GLOBSTAR), text, is_open=is_open)
    return expression + (_ANY_SEGMENTS if floats else "") + group + (".*" if is_open else "")


def _segment(segment: str, text: str, *, is_open: bool) -> str:
    if _GLOBSTAR in segment:
        raise PathError(f"{text!r}: ** stands alone between slashes, or at the very end")
    first, *others = (_literal(part) for part in segment.split(_STAR))
    if not others:
        return first
    *middle, final = others
    expression = first + "".join(f"(?>[^/]*?{part})" for part in middle)
    return expression + (f"(?>[^/]*?{final})" if is_open else f"[^/]*{final}")


def _literal(part: str) -> str:
    return _ESCAPE.sub(lambda match: f"(?i:{match[0]})", re.escape(part))
