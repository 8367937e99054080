"""Flows made without mitmproxy's constructors are what its constructors make."""

from __future__ import annotations

from mitmproxy import http
from mitmproxy.connection import Client, Server

from understudy.express.messages import (
    make_flow,
    make_request,
    make_response,
    request_head,
    response_head,
)
from understudy.stages.exchange import Exchange, Session
from understudy.wire.head import HeadReader, RequestHead, parse_head

HEAD = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: good.example\r\nX-A:  one \r\nContent-Length: 3\r\n\r\n"
CLIENT = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), timestamp_start=0)


WRITTEN = HEAD.replace(b"  one ", b" one")


def exchange(head: RequestHead | None = None) -> Exchange:
    return Exchange(Session("127.0.0.1"), None, head or clean_head())


def clean_head() -> RequestHead:
    head = parse_head(HEAD, 64)
    assert head is not None
    assert head.refusal is None
    return head


def test_a_flow_has_every_attribute_that_mitmproxy_gives_it() -> None:
    request = make_request(clean_head(), tls=True)
    stock = http.HTTPFlow(CLIENT, Server(address=None), live=True)
    ours = make_flow(CLIENT, Server(address=None), request)
    assert vars(ours).keys() - {"request"} == vars(stock).keys()
    volatile = {"id", "timestamp_created", "server_conn", "request"}
    for name in vars(stock).keys() - volatile:
        assert vars(ours)[name] == vars(stock)[name], name
    assert ours.id != make_flow(CLIENT, ours.server_conn, request).id


def test_a_request_is_what_mitmproxy_makes_of_the_same_values() -> None:
    ours = make_request(clean_head(), tls=True)
    stock = http.Request(
        host="", port=0, method=b"POST", scheme=b"https", authority=b"", path=b"/v1/x?y=1",
        http_version=b"HTTP/1.1", content=None, trailers=None, timestamp_end=None,
        headers=http.Headers(
            [(b"Host", b"good.example"), (b"X-A", b"one"), (b"Content-Length", b"3")]
        ),
        timestamp_start=ours.timestamp_start,
    )  # fmt: skip
    assert vars(ours.data) == vars(stock.data)
    assert ours.headers["x-a"] == "one"
    assert request_head(ours, exchange()) == WRITTEN


def test_the_head_that_goes_up_is_the_flows_though_its_lines_are_kept() -> None:
    reader = HeadReader()
    reader.read(HEAD, 64)
    head = reader.read(HEAD, 64)
    assert head is not None
    of = exchange(head)
    request = make_request(head, tls=True)
    of.outline, of.fields = head.outline, request.headers.fields
    assert request_head(request, of) == request_head(request, of) == WRITTEN
    request.headers["x-a"] = "two"
    assert request_head(request, of) == WRITTEN.replace(b"one", b"two")


def test_a_response_is_what_mitmproxy_makes_of_the_same_values() -> None:
    fields = ((b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"))
    ours = make_response(200, b"OK", fields)
    stock = http.Response(
        http_version=b"HTTP/1.1", status_code=200, reason=b"OK", headers=http.Headers(fields),
        content=None, trailers=None, timestamp_start=ours.timestamp_start, timestamp_end=None,
    )  # fmt: skip
    assert vars(ours.data) == vars(stock.data)
    assert ours.headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert response_head(ours) == b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
