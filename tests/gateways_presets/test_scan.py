"""A refused field is found wherever the body is cut into chunks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.gateways.apply import refuse_body
from understudy.gateways.scan import FieldScanner

FIELDS = frozenset({"api_base", "base_url"})


def scan(body: bytes, size: int, *, is_form: bool = False) -> bool:
    scanner = FieldScanner(FIELDS, is_form=is_form)
    return any(scanner.feed(body[i : i + size]) for i in range(0, len(body), size))


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
        b"model=x&api%5Fbase=y",
        b"model=x&metadata=%7B%22%61pi%5C%75005fbase%22%3A1%7D",
        b"--b\r\nContent-Disposition: form-data; name*=utf-8''api%5Fbase\r\n\r\nx",
        b"--b\r\nContent-Disposition: form-data;\r\n name*0=api_; name*1=base\r\n\r\nx",
        b'--b\r\nContent-Disposition: form-data; name="api\\_\\base"\r\n\r\nx',
        b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\neyJhcGlfYmFzZSI6MX0=",
        b'metadata={"api\\u005fbase":1}',
        b"model=x&Api_Base=y",
        b'{"API_BASE": 1}',
        '{"bas\u0065_url": 1}'.replace("u", "U").encode(),
        '{"ba\u017fe_url": 1}'.encode(),
        rb'{"a": {"Api\u005fBase": 1}}',
        rb'{"metadata": "{\"api_base\": 1}"}',
        rb'{"metadata": " \n{\"a\": \"\\\\\", \"api\\u005fbase\": 1}"}',
        rb'{"metadata": "\u007b\u0022api_base\u0022: 1}"}',
        '{"api_base": 1}'.encode("utf-16"),
        '{"api_base": 1}'.encode("utf-16-be"),
        '{"api_base": 1}'.encode("utf-32"),
        b'\xef\xbb\xbf{"api\\u005fbase": 1}',
        b'{"a": ' + b"[" * 2000,
    ],
    ids=str,
)
def test_a_refused_field_is_found(body: bytes, size: int) -> None:
    assert scan(body, size)
    assert refuse_body(FIELDS, body) or b"[" * 2000 in body or b"x" * 2000 in body


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"&api_base=https://evil.example&"}',
        b'{"a": "&api%5fbase=x"}',
        b'{"deep": {"er": {"api\\u005fbase": 1}}}',
        '{"api_base": 1}'.encode("utf-16"),
    ],
)
def test_a_form_that_looks_like_json_is_read_as_a_form(body: bytes, size: int) -> None:
    assert scan(body, size, is_form=True)
    assert refuse_body(FIELDS, body, is_form=True)


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
        b"my%5Fapi_base=x",
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=utf-8''a%20b\r\n\r\nx",
        b"--b\r\nContent-Transfer-Encoding: binary\r\n\r\nEnter your name* = x; name* x",
        rb'{"input": "what is {\"api_base\": 1}?"}',
        rb'{"input": "{\"a\": \"api_base\"}"}',
        rb'{"input": "[{\"api_base\": 1}]"}',
        rb'{"messages": [{"content": "{\"api_base\": 1}"}]}',
        rb'{"input": "{\"a\": \"\u0000\"}"}',
    ],
    ids=str,
)
def test_a_field_that_only_looks_alike_passes(body: bytes, size: int) -> None:
    assert not scan(body, size)
    assert not refuse_body(FIELDS, body)


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


_pieces = st.sampled_from(
    [b"api_base", b"api", b"_", b"base", b"\\", b"\\u005f", b"%5f", b"%5c", b"\0", b"&", b"=", b"x"]
) | st.binary(max_size=3)


@given(st.lists(_pieces, max_size=12).map(b"".join), st.integers(1, 40))
def test_how_a_form_is_cut_changes_nothing(body: bytes, size: int) -> None:
    assert scan(body, size, is_form=True) >= refuse_body(FIELDS, body, is_form=True)


def test_a_name_with_very_many_backslashes_in_it_is_found_in_pieces() -> None:
    body = b"api" + b"\\" * 5000 + b"_base"
    assert scan(body, 7, is_form=True)
    assert refuse_body(FIELDS, body)


_texts = st.text(max_size=8) | st.sampled_from(["api_base", "base_url", "{", "\\", '"'])
_documents = st.dictionaries(
    _texts, _texts | _values | st.dictionaries(_texts, _values, max_size=3).map(json.dumps)
)


@given(
    _documents,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    st.booleans(),
    st.integers(1, 40),
)
def test_what_is_refused_whole_is_refused_in_pieces(
    document: dict[str, object], encoding: str, ascii_only: bool, size: int
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    body = text.encode(encoding, errors="replace")
    assert scan(body, size) or not refuse_body(FIELDS, body)


@pytest.mark.parametrize(
    "body",
    [
        b"{api_base: 1}",
        b"{'api_base': 1}",
        b'{"model: "x", "api_base": "y"}',
        b'{"a": 1, /**/ "b": 2}',
        b'{"a": 1} # "',
    ],
)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_what_only_a_forgiving_parser_reads_is_refused(body: bytes, size: int) -> None:
    assert scan(body, size)
    assert refuse_body(FIELDS, body)


@pytest.mark.parametrize(
    "body", [b'\xef\xbb\xbf{"a": [NaN, -Infinity, 1.5E+3, true, false, null]}']
)
@pytest.mark.parametrize("size", [1, 5, 100])
def test_well_formed_json_is_not_refused(body: bytes, size: int) -> None:
    assert not scan(body, size)


@pytest.mark.attack("slow to read")
def test_endless_white_space_before_a_body_is_not_kept() -> None:
    scanner = FieldScanner(FIELDS)
    for _ in range(100):
        assert not scanner.feed(b" " * 100_000)
        assert len(scanner._tail) < 10
    assert scanner.feed(b'{"api_base": "https://evil.example"}')
