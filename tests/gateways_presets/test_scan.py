"""A refused field is found wherever the body is cut into chunks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.gateways.scan import FieldScanner

FIELDS = frozenset({"api_base", "base_url"})


def scan(body: bytes, size: int) -> bool:
    scanner = FieldScanner(FIELDS)
    return any([scanner.feed(body[i : i + size]) for i in range(0, len(body), size)])


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "x", "api_base": "https://evil.example"}',
        b' \n{"api\\u005fbase":1}',
        b'{"a": {"b": 1, "base_url": 2}}',
        b'{"a": "\\"", "api_base": 1}',
        b'{"a": "\\\\", "api_base": 1}',
        b'{"a": [{"deep": 1}], "api_base": 1}',
        b'{"a": "}", "api_base": 1}',
        b'[{"api_base": 1}]',
        '{"api_base": 1}'.encode("utf-16-le"),
        b'{"' + b"x" * 2000 + b'": 1}',
        b'--b\r\nContent-Disposition: form-data; name="api_base"\r\n\r\nx',
        b"model=x&api_base=y",
    ],
)
def test_a_refused_field_is_found(body: bytes, size: int) -> None:
    assert scan(body, size)


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": "user", "content": "set \\"api_base\\": to what?"}]}',
        b'{"a": {"b": {"api_base": "three levels down"}}}',
        b'{"api_base_2": 1, "xapi_base": 2}',
        b'{"value": "api_base"}',
        b'["api_base"]',
        b"",
        b"my_api_base_url=x",
    ],
)
def test_a_field_that_only_looks_alike_passes(body: bytes, size: int) -> None:
    assert not scan(body, size)


_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), _values, max_size=4), st.integers(1, 40), st.booleans())
def test_the_scanner_agrees_with_a_parser(
    document: dict[str, object], size: int, plant: bool
) -> None:
    if plant:
        document["api_base"] = "x"
    names = set(document)
    for value in document.values():
        names |= set(value) if isinstance(value, dict) else set()
    body = json.dumps(document).encode()
    assert scan(body, size) == bool(names & FIELDS)
