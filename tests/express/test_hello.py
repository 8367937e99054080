"""A ClientHello is read as mitmproxy's own reader reads it, however it is cut into records."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.proxy.layers.tls import parse_client_hello

from understudy.express.hello import read_hello


def client_hello(name: str = "good.example") -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


HELLO = client_hello()


def in_records(message: bytes, sizes: list[int]) -> bytes:
    records = b""
    for size in [*sizes, len(message)]:
        piece, message = message[:size], message[size:]
        if piece:
            records += b"\x16\x03\x01" + len(piece).to_bytes(2) + piece
    return records


@given(st.lists(st.integers(1, 400), max_size=8))
def test_the_records_make_no_difference(sizes: list[int]) -> None:
    hello = read_hello(in_records(HELLO[5:], sizes))
    assert hello is not None
    assert hello.sni == "good.example"


@given(st.integers(1, len(HELLO) - 6))
def test_part_of_a_hello_is_not_one_yet(length: int) -> None:
    assert read_hello(in_records(HELLO[5 : 5 + length], [])) is None


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_as_mitmproxy_reads_it(message: bytes) -> None:
    records = in_records(message, [])

    def read(reader: object) -> str | None:
        assert callable(reader)
        try:
            hello = reader(records)
        except ValueError:
            return "refused"
        return None if hello is None else repr((hello.sni, hello.cipher_suites))

    assert read(read_hello) == read(parse_client_hello)


@pytest.mark.parametrize("records", [b"\x16\x03\x01\x00\x00", b"\x17\x03\x03\x00\x01x", b"GET / H"])
def test_what_is_no_handshake_record_is_refused(records: bytes) -> None:
    with pytest.raises(ValueError, match="no TLS handshake record"):
        read_hello(records)
