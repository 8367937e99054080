"""A reflected secret never leaves, however the body is cut; everything else does, at once."""

from __future__ import annotations

import base64
import gc
import html
import json
import tracemalloc
import urllib.parse

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


def go_json(text: str) -> bytes:
    escaped = json.dumps(text)
    for char in "<>&":
        escaped = escaped.replace(char, f"\\u{ord(char):04x}")
    return escaped.encode()


FORMS = {
    "raw": RAW,
    "base64": base64.b64encode(RAW),
    "base64, second alignment": base64.b64encode(b"x:" + RAW + b"!"),
    "base64, third alignment": base64.b64encode(b"x" + RAW + b"??"),
    "base64 for urls": base64.urlsafe_b64encode(b"user:" + RAW),
    "base64 of basic in a head": base64.b64encode(
        b"Authorization: Basic " + base64.b64encode(b"me:" + RAW) + b"\r\n"
    ),
    "hex": RAW.hex().encode(),
    "upper-case hex": RAW.hex().upper().encode(),
    "url": urllib.parse.quote(SECRET, safe="").encode(),
    "url, lower-case hex": urllib.parse.quote(SECRET, safe="")
    .replace("%2F", "%2f")
    .replace("%2B", "%2b")
    .replace("%3D", "%3d")
    .replace("%3C", "%3c")
    .encode(),
    "url of a path": urllib.parse.quote(SECRET).encode(),
    "url, twice": urllib.parse.quote(urllib.parse.quote(SECRET, safe=""), safe="").encode(),
    "url of base64": urllib.parse.quote(base64.b64encode(b"me:" + RAW), safe="").encode(),
    "json": json.dumps({"echo": SECRET}).encode(),
    "json of php": json.dumps(SECRET).replace("/", "\\/").encode(),
    "json of go": go_json(SECRET),
    "json in json": json.dumps(json.dumps(SECRET)).encode(),
    "html": html.escape(SECRET).encode(),
}


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
    assert not any(form in result for form in echoes(SECRET))
    assert PLACEHOLDER.encode() in result
    assert scrub.found["team"] >= 1
    assert result == scrubber().scrub(body)


@given(st.binary(max_size=200), st.lists(st.integers(0, 30), max_size=12))
def test_a_body_without_the_secret_passes_unchanged(body: bytes, sizes: list[int]) -> None:
    if not any(form in body for form in echoes(SECRET)):
        assert stream(scrubber(), cut(body, sizes)) == body


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
    for form in echoes(secret):
        for before in (*range(45), 2047, 2048, 4094, 4095, 5000):
            clean = scrubber(("team", secret, PLACEHOLDER))
            data = b"-" * before + form
            assert clean.scrub(data) == b"-" * before + PLACEHOLDER.encode(), (form, before)


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
