from __future__ import annotations

import base64

import pytest

from understudy.policy.hosts import Authority
from understudy.policy.model import Target
from understudy.reasons import Reason
from understudy.wire.head import parse_head
from understudy.wire.identity import (
    HOP_BY_HOP,
    caller_is_known,
    format_host,
    identify,
    overrides_method,
    overrides_path,
)

GOOD = Authority("good.example", 443)


def ask(
    line: str, host: str | bytes, tunnel: Authority | None = GOOD, *, tls: bool = True
) -> Target | Reason:
    value = host if isinstance(host, bytes) else host.encode()
    head = parse_head(line.encode() + b" HTTP/1.1\r\nHost: " + value + b"\r\n\r\n", 10)
    assert head is not None
    return identify(head, tunnel, tls=tls)


@pytest.mark.parametrize(
    ("host", "tunnel", "tls", "scheme"),
    [
        ("good.example", GOOD, True, "https"),
        ("GOOD.example.", GOOD, True, "https"),
        ("good.example:443", GOOD, True, "https"),
        ("good.example:8443", Authority("good.example", 8443), True, "https"),
        ("good.example:80", Authority("good.example", 80), True, "https"),
        ("good.example", Authority("good.example", 80), False, "http"),
        ("good.example:80", Authority("good.example", 80), False, "http"),
        ("good.example", GOOD, False, "http"),
        ("good.example:8080", Authority("good.example", 8080), False, "http"),
        ("[::1]", Authority("::1", 443), True, "https"),
    ],
)
def test_a_tunnels_request_is_for_the_tunnels_place(
    host: str, tunnel: Authority, tls: bool, scheme: str
) -> None:
    read = ask("GET /v1?q=/x", host, tunnel, tls=tls)
    assert read == Target("GET", scheme, tunnel.host, tunnel.port, "/v1")


@pytest.mark.parametrize(
    ("line", "host", "tunnel", "tls", "reason"),
    [
        ("GET /", "evil.example", GOOD, True, Reason.HOST_MISMATCH),
        ("GET /", "good.example:80", GOOD, True, Reason.HOST_MISMATCH),
        ("GET /", "good.example:22", GOOD, True, Reason.HOST_MISMATCH),
        ("GET /", "good.example", Authority("good.example", 80), True, Reason.HOST_MISMATCH),
        ("GET /", "good.example", Authority("good.example", 8443), True, Reason.HOST_MISMATCH),
        ("GET /", "good.example", Authority("good.example", 8080), False, Reason.HOST_MISMATCH),
        ("GET /", "u@good.example", GOOD, True, Reason.BAD_HEADER),
        ("GET /", "good.example, evil.example", GOOD, True, Reason.BAD_HEADER),
        ("GET /", "", GOOD, True, Reason.BAD_HEADER),
        ("GET /", "a." * 130 + "example", GOOD, True, Reason.BAD_HEADER),
        ("GET /", b"good.example\xff", GOOD, True, Reason.BAD_HEADER),
        ("GET http://good.example/", "good.example", GOOD, True, Reason.BAD_TARGET),
        ("CONNECT good.example:443", "good.example", GOOD, True, Reason.BAD_METHOD),
        ("TRACE /", "good.example", GOOD, True, Reason.BAD_METHOD),
        ("GET /", "good.example", None, False, Reason.BAD_TARGET),
        ("GET https://good.example/", "good.example", None, False, Reason.BAD_TARGET),
        ("GET http://good.example/", "evil.example", None, False, Reason.BAD_HEADER),
        ("GET http://good.example/", "good.example:8080", None, False, Reason.BAD_HEADER),
        ("GET http://good.example/", "good.example/", None, False, Reason.BAD_HEADER),
    ],
)
def test_what_names_two_places_is_for_none(
    line: str, host: str | bytes, tunnel: Authority | None, tls: bool, reason: Reason
) -> None:
    assert ask(line, host, tunnel, tls=tls) is reason


@pytest.mark.parametrize("target", ["http://good.example/v1?q", "HTTP://GOOD.example:80/v1"])
def test_a_request_straight_to_the_proxy_is_for_its_targets_place(target: str) -> None:
    expected = Target("GET", "http", "good.example", 80, "/v1")
    assert ask(f"GET {target}", "good.example", None, tls=False) == expected


@pytest.mark.parametrize(
    "name",
    ["X-HTTP-Method-Override", "x_http_method", "X-Method-Override", "x-http-method-override"],
)
def test_a_header_that_asks_for_another_method_is_seen(name: str) -> None:
    fields = ((b"Accept", b"DELETE"), (name.encode(), b"DELETE"))
    assert overrides_method(fields, b"/?a=b", "POST")
    assert not overrides_method(fields, b"/", "DELETE")
    assert not overrides_method(fields[:1], b"/DELETE", "POST")
    twice = ((name.encode(), b"POST"), (name.encode(), b"DELETE"))
    assert overrides_method(twice, b"/", "POST")


@pytest.mark.parametrize(
    "name", ["_method", "_METHOD", "%5fmethod", "$httpMethod", "x-http-method"]
)
def test_a_parameter_that_asks_for_another_method_is_seen(name: str) -> None:
    target = f"/_method=x?a=b&{name}=delete".encode()
    assert overrides_method((), target, "POST")
    assert not overrides_method((), target, "DELETE")


@pytest.mark.parametrize("name", ["X-Original-URI", "x_original_url", "X-Rewrite-URL"])
def test_a_header_that_asks_for_another_path_is_seen(name: str) -> None:
    fields = ((b"Accept", b"/admin"), (name.encode(), b"/admin"))
    assert overrides_path(fields, b"/v1") is True
    assert overrides_path(fields, b"/admin") is False
    assert overrides_path(fields[:1], b"/v1") is False


def test_headers_of_one_hop_stay_on_it() -> None:
    """Those of RFC 9110 7.6.1, and what would take another protocol's connection up."""
    assert {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"proxy-authorization",
    } == HOP_BY_HOP


def basic(pair: bytes) -> bytes:
    return b"Basic " + base64.b64encode(pair)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ([b"Bearer tok-en"], True),
        ([b"bearer tok-en"], True),
        ([basic(b"anyone:tok-en")], True),
        ([basic(b":tok-en").replace(b"Basic", b"BASIC")], True),
        ([], False),
        ([b"Bearer tok-en", b"Bearer tok-en"], False),
        ([b"Bearer tok-e"], False),
        ([b"Bearer tok-en "], False),
        ([b"Bearer"], False),
        ([b"tok-en"], False),
        ([b"Digest tok-en"], False),
        ([basic(b"tok-en")], False),
        ([basic(b"tok-en:")], False),
        ([basic(b"u:x:tok-en")], False),
        ([b"Basic !" + base64.b64encode(b"u:tok-en")], False),
        ([b"Basic tok-en"], False),
        ([b"\xff"], False),
    ],
)
def test_a_caller_is_known_by_the_whole_token_alone(values: list[bytes], known: bool) -> None:
    fields = [(b"Accept", b"Bearer tok-en"), *((b"Proxy-Authorization", v) for v in values)]
    assert caller_is_known(fields, "tok-en") is known
    assert caller_is_known(fields, None) is True


@pytest.mark.parametrize(
    ("scheme", "host", "port", "written"),
    [
        ("https", "good.example", 443, "good.example"),
        ("https", "good.example", 80, "good.example:80"),
        ("http", "good.example", 80, "good.example"),
        ("http", "good.example", 443, "good.example:443"),
        ("https", "::1", 443, "[::1]"),
        ("https", "::1", 8443, "[::1]:8443"),
    ],
)
def test_a_host_header_names_a_port_that_is_not_the_usual_one(
    scheme: str, host: str, port: int, written: str
) -> None:
    assert format_host(scheme, host, port) == written
