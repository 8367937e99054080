"""A reflected secret never leaves, however the body is cut; everything else does, at once."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.credentials.scrub import Scrubber, forms_of
from understudy.credentials.secret import Secret

SECRET = "sk-real-A/b+c=d\u0022e-0123456789"
PLACEHOLDER = "sk-placeholder-zzzzzzzzzzzz"


def scrubber() -> Scrubber:
    return Scrubber(forms_of(((Secret(SECRET, "KEY"), PLACEHOLDER),)))


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    return [*pieces, body]


@pytest.mark.parametrize(
    "form",
    [
        SECRET.encode(),
        base64.b64encode(SECRET.encode()),
        base64.b64encode(b"x:" + SECRET.encode() + b"!"),
        base64.urlsafe_b64encode(b"user:" + SECRET.encode()),
        urllib.parse.quote(SECRET, safe="").encode(),
        json.dumps({"echo": SECRET}).encode(),
    ],
)
@given(sizes=st.lists(st.integers(0, 30), max_size=12), before=st.binary(max_size=20))
def test_every_form_is_replaced_over_any_chunking(
    form: bytes, sizes: list[int], before: bytes
) -> None:
    scrub = scrubber()
    sent = [scrub.feed(piece) for piece in cut(before + form + b" after", sizes)]
    result = b"".join([*sent, scrub.close()])
    assert SECRET.encode() not in result
    assert SECRET[:-3].encode() not in result
    assert PLACEHOLDER.encode() in result
    assert scrub.count >= 1


@given(st.binary(max_size=200), st.lists(st.integers(0, 30), max_size=12))
def test_a_body_without_the_secret_passes_unchanged(body: bytes, sizes: list[int]) -> None:
    scrub = scrubber()
    if SECRET.encode() not in body:
        assert b"".join([*map(scrub.feed, cut(body, sizes)), scrub.close()]) == body


def test_an_event_leaves_without_waiting_for_the_next() -> None:
    scrub = scrubber()
    assert scrub.feed(b"data: one\n\n") == b"data: one\n\n"
    assert scrub.feed(b"data: sk-re") == b"data: "
    assert scrub.feed(b"d\n\n") == b"sk-red\n\n"


def test_a_secret_too_short_to_be_told_apart_is_left_alone() -> None:
    scrub = Scrubber(forms_of(((Secret("abc", "KEY"), PLACEHOLDER),)))
    assert not scrub
    assert scrub.feed(b"abc") == b"abc"
