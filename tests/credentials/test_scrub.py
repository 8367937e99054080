"""A reflected secret never leaves, however the body is cut; everything else does, at once."""

from __future__ import annotations

import base64
import gc
import html
import json
import re
import tracemalloc
import urllib.parse
from collections.abc import Callable
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.credentials.forms import echoes
from understudy.credentials.scrub import Guarded, Scrubber, forms_of
from understudy.credentials.secret import Secret

SECRET = "sk-real-A/b+c=d\u0022e<&'-0123456789"
RAW = SECRET.encode()
PLACEHOLDER = "sk-placeholder-zzzzzzzzzzzz"


def scrubber(*guarded: tuple[str, str, str]) -> Scrubber:
    wanted = guarded or (("team", SECRET, PLACEHOLDER),)
    return Scrubber(forms_of(tuple(Guarded(n, Secret(s, "KEY"), p) for n, s, p in wanted)))


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    return [*pieces, body]


def stream(scrub: Scrubber, pieces: list[bytes]) -> bytes:
    return b"".join([*map(scrub.feed, pieces), scrub.close()])


def unescape(text: str) -> str:
    """One layer less, as a plain reader does it."""
    text = re.sub(r"\\(?:u00|x)([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)
    return html.unescape(urllib.parse.unquote(re.sub(r"\\(.)", r"\1", text)))


def escape(text: str, chars: str, form: str) -> str:
    """``text`` with these characters written in this form."""
    return "".join(form.format(ord(char)) if char in chars else char for char in text)


FORMS = {
    "raw": RAW,
    "utf-16": SECRET.encode("utf-16-le"),
    "utf-16, big end first": SECRET.encode("utf-16-be"),
    "base64": base64.b64encode(RAW),
    "base64, second alignment": base64.b64encode(b"x:" + RAW + b"!"),
    "base64, third alignment": base64.b64encode(b"x" + RAW + b"??"),
    "base64 for urls": base64.urlsafe_b64encode(b"user:" + RAW),
    "base64 of basic in a head": base64.b64encode(
        b"Authorization: Basic " + base64.b64encode(b"me:" + RAW) + b"\r\n"
    ),
    "base64 of a query": base64.b64encode(b"/?k=" + urllib.parse.quote(SECRET, safe="").encode()),
    "base64 of json": base64.b64encode(json.dumps({"k": SECRET}).encode()),
    "hex": RAW.hex().encode(),
    "upper-case hex": RAW.hex().upper().encode(),
}
ESCAPES: dict[str, Callable[[str], str]] = {
    "url": partial(urllib.parse.quote, safe=""),
    "url of a path": urllib.parse.quote,
    "url of go's paths": partial(urllib.parse.quote, safe="/$&+=:@"),
    "url, lower-case hex": lambda text: escape(text, "/+=\"<&' ", "%{:02x}"),
    "url, every character": lambda text: escape(text, text, "%{:02X}"),
    "json": lambda text: json.dumps(text)[1:-1],
    "json of php": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json of go": lambda text: escape(json.dumps(text)[1:-1], "<>&", "\\u{:04x}"),
    "json of gson": lambda text: escape(json.dumps(text)[1:-1], "<>&='", "\\u{:04x}"),
    "json of .net": lambda text: escape(text, "<>&'+`\"", "\\u{:04X}"),
    "json, every character": lambda text: escape(text, text, "\\u{:04x}"),
    "javascript": lambda text: escape(text, "/+=\"<&'-", "\\x{:02X}"),
    "html": html.escape,
    "html of mustache": lambda text: escape(text, "&<>\"'/`=", "&#x{:02X};"),
    "html of xml": lambda text: text.replace("&", "&amp;").replace("'", "&apos;"),
    "html, every character": lambda text: escape(text, text, "&#{:d};"),
    "html, every character, zeros": lambda text: escape(text, text, "&#x00{:x};"),
    "html, names": lambda text: text.replace("/", "&sol;").replace("=", "&equals;"),
}


def expect_nothing_left(result: bytes) -> None:
    for form in (*echoes(SECRET), RAW[:16], RAW[16:]):
        assert form not in result


@pytest.mark.parametrize("name", FORMS)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=12),
    before=st.binary(max_size=20),
    after=st.sampled_from([b"", b" after", b"\n\n"]),
)
def test_every_form_is_replaced_over_any_chunking(
    name: str, sizes: list[int], before: bytes, after: bytes
) -> None:
    scrub = scrubber()
    body = before + FORMS[name] + after
    result = stream(scrub, cut(body, sizes))
    expect_nothing_left(result)
    assert PLACEHOLDER.encode() in result.replace(b"\0", b"")
    assert scrub.found["team"] >= 1
    assert result == scrubber().scrub(body)


@pytest.mark.parametrize("name", ESCAPES)
@given(
    again=st.sampled_from(["no more", *ESCAPES]),
    form=st.sampled_from([*FORMS.values()][3:]) | st.just(RAW),
    sizes=st.lists(st.integers(0, 30), max_size=12),
    after=st.sampled_from(["", " after", '"}\n\n', "\\n", "%0A"]),
)
def test_whatever_escapes_a_form_it_is_replaced(
    name: str, again: str, form: bytes, sizes: list[int], after: str
) -> None:
    written = ESCAPES[name](form.decode())
    written = ESCAPES[again](written) if again in ESCAPES else written
    scrub = scrubber()
    body = f"data: {{'k': '{written}{after}".encode()
    assert stream(scrub, cut(body, sizes)) == scrubber().scrub(body)
    cleaned = scrubber().scrub(body)
    assert scrub.found["team"] >= 1
    assert PLACEHOLDER.encode() in cleaned
    for _ in range(4):
        expect_nothing_left(cleaned)
        cleaned = unescape(cleaned.decode()).encode()


_WAYS = ("%{:02x}", "%{:02X}", "\\u{:04x}", "\\u{:04X}", "\\x{:02x}", "&#{};", "&#x0{:x};", "{:c}")


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.lists(st.integers(0, 40)))
def test_any_character_may_be_escaped_in_any_way_or_not(
    random: Random, layers: int, sizes: list[int]
) -> None:
    written = SECRET
    for _ in range(layers):
        # What begins escapes is escaped itself: else the layer could not be read back.
        written = "".join(
            random.choice(_WAYS[:-1] if char in "%\\&" else _WAYS).format(ord(char))
            for char in written
        )
    body = b"<" + written.encode() + b">"
    assert stream(scrubber(), cut(body, sizes)) == b"<" + PLACEHOLDER.encode() + b">"


_ESCAPED = st.lists(
    st.sampled_from(
        ["%", "2", "5", "%25", "%5c", "%26", "\\", "\\u0073", "\\x2d", "u00", "&", "amp;", "&#",
         "115;", "&sol;", "sk-r", SECRET, SECRET[:9], SECRET[9:], "-" * 700, '"', "x"]
    ),
    max_size=30,
).map(lambda parts: "".join(parts).encode())  # fmt: skip


@given(_ESCAPED, st.lists(st.integers(0, 9), max_size=30))
def test_chunks_change_nothing_even_within_escapes(body: bytes, sizes: list[int]) -> None:
    assert stream(scrubber(), cut(body, sizes)) == scrubber().scrub(body)


@given(st.binary(max_size=200) | _ESCAPED, st.lists(st.integers(0, 30), max_size=12))
def test_a_body_without_the_secret_passes_unchanged(body: bytes, sizes: list[int]) -> None:
    scrub = scrubber()
    passed = stream(scrub, cut(body, sizes))
    assert passed == body or scrub.found


_SHORT = "abababab"
_LONGER = "ababababcabab"
_FRAGMENTS = st.sampled_from(
    [b"ab", b"a", b"c", b"ababab", _SHORT.encode(), _LONGER.encode(), b"\n", b"YWJh", b"6162"]
)


@given(st.lists(_FRAGMENTS, max_size=20).map(b"".join), st.lists(st.integers(0, 9), max_size=20))
def test_chunks_change_nothing_even_where_secrets_begin_alike(
    body: bytes, sizes: list[int]
) -> None:
    both = (("one", _SHORT, "PLACEHOLDER-ONE"), ("two", _LONGER, "PLACEHOLDER-TWO"))
    assert stream(scrubber(*both), cut(body, sizes)) == scrubber(*both).scrub(body)


@given(st.lists(_FRAGMENTS, max_size=20).map(b"".join), st.lists(st.integers(0, 9), max_size=20))
def test_only_what_may_become_a_secret_is_held_back(body: bytes, sizes: list[int]) -> None:
    scrub = scrubber(("one", _SHORT, "PLACEHOLDER-ONE"))
    forms = echoes(_SHORT)
    given_up, passed = b"", b""
    for piece in cut(body, sizes):
        given_up += piece
        passed += scrub.feed(piece)
        held = scrub.scrub(given_up)[len(passed) :]
        assert held == b"" or any(form.startswith(held) and form != held for form in forms)


def test_an_event_leaves_without_waiting_for_the_next() -> None:
    scrub = scrubber()
    assert scrub.feed(b"data: one\n\n") == b"data: one\n\n"
    assert scrub.feed(b"data: sk-re") == b"data: "
    assert scrub.feed(b"d\n\n") == b"sk-red\n\n"
    assert scrub.feed(b'data: {"x": "' + RAW[:9]) == b'data: {"x": "'
    assert scrub.feed(RAW[9:] + b'"}\n\n') == PLACEHOLDER.encode() + b'"}\n\n'


def test_what_is_held_back_at_the_end_is_given_out() -> None:
    scrub = scrubber()
    assert scrub.feed(b"sk-real") == b""
    assert scrub.close() == b"sk-real"
    assert scrub.close() == b""


def test_reflections_count_for_the_connection_whose_secret_it_was() -> None:
    scrub = scrubber(("one", "first-secret-11", "P-ONE"), ("two", "second-secret-22", "P-TWO"))
    body = b"first-secret-11 second-secret-22 first-secret-11"
    assert scrub.scrub(body) == b"P-ONE P-TWO P-ONE"
    assert dict(scrub.found) == {"one": 2, "two": 1}


def test_a_secret_that_two_connections_share_is_the_first_ones() -> None:
    scrub = scrubber(("used", SECRET, "P-USED"), ("other", SECRET, "P-OTHER"))
    assert scrub.scrub(RAW) == b"P-USED"


def test_field_names_and_values_are_cleaned() -> None:
    scrub = scrubber(("one", "token-secret-1", "P-ONE"))
    fields = ((b"X-Echo", b"Bearer token-secret-1"), (b"X-token-secret-1", b"1"), (b"A", b"b"))
    assert scrub.scrub_fields(fields) == (
        (b"X-Echo", b"Bearer P-ONE"),
        (b"X-P-ONE", b"1"),
        (b"A", b"b"),
    )
    assert scrub.scrub_fields(fields[2:]) == fields[2:]


def test_a_secret_too_short_to_be_told_apart_is_left_alone() -> None:
    scrub = scrubber(("team", "abc", PLACEHOLDER))
    assert not scrub
    assert scrub.feed(b"abc") == b"abc"
    assert scrub.scrub_fields([(b"a", b"abc")]) == ((b"a", b"abc"),)


@pytest.mark.parametrize("length", [8, 18, 19, 20, 40, 200])
def test_a_secret_is_found_wherever_it_stands(length: int) -> None:
    secret = "".join(chr(ord("a") + i * 7 % 26) for i in range(length))
    for form, written in echoes(secret, PLACEHOLDER).items():
        for before in (*range(45), 2047, 2048, 4094, 4095, 5000):
            clean = scrubber(("team", secret, PLACEHOLDER))
            data = b"-" * before + form
            assert clean.scrub(data) == b"-" * before + written, (form, before)


def test_a_secret_that_was_replaced_does_not_stay_in_memory() -> None:
    def rotate(count: int) -> int:
        for number in range(count):
            value = f"sk-real-rotated-{number:040}"
            assert scrubber(("team", value, PLACEHOLDER)).scrub(value.encode()) != value.encode()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = rotate(5)
        # One set of forms takes some 60 kB.
        assert rotate(40) - before < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("before", [0, 30, 5000])
def test_a_few_escapes_in_much_text_are_looked_around(name: str, before: int) -> None:
    text = b"-" * before + b"%s" + b"-" * 20_000 + b"%s" + b"&amp;" + b"-" * 20_000
    escaped = ESCAPES[name](ESCAPES[name](SECRET)).encode()
    secret, placeholder = (escaped, RAW), (PLACEHOLDER.encode(),) * 2
    assert scrubber().scrub(text % secret) == text % placeholder
    assert scrubber().feed(text % secret) == text % placeholder


_STRICT = ("url", "url, every character", "json", "json of php", "json, every character", "html")


@pytest.mark.parametrize("again", ["no more", *_STRICT])
@pytest.mark.parametrize("name", _STRICT)
@pytest.mark.parametrize(
    "secret",
    [
        'ab\\cd"ef%41gh&amp;ij/k l',
        '\\\\server\\share\\"x"',
        "p&#115;w%2573 \\u0041 x",
        "100%sure&safe;~`key`=",
        "a b c d e f g h",
        'it\'s "quoted" <b>&</b>',
    ],
)
def test_escapes_may_be_in_the_secret_itself(secret: str, name: str, again: str) -> None:
    written = ESCAPES[name](secret)
    written = ESCAPES[again](written) if again in ESCAPES else written
    body = f"[{written}]".encode()
    whole, pieces = scrubber(("team", secret, "P")), scrubber(("team", secret, "P"))
    assert whole.scrub(body) == b"[P]"
    assert stream(pieces, [bytes((byte,)) for byte in body]) == b"[P]"
