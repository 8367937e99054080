"""Methods: TRACE, odd letters, OPTIONS * and CONNECT inside the tunnel go nowhere."""

from __future__ import annotations

import pytest
from tests.support.scene import Scene


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("target", ["/", "/v1/messages?x=1"])
def test_trace_is_answered_405_and_not_forwarded(scene: Scene, target: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(
            f"TRACE {target} HTTP/1.1\nHost: good.example\nX-Api-Key: {scene.placeholder('good')}"
        )
    scene.expect_denied(answer, "bad_method", status=405)
    assert "GET" in (answer.header("allow") or "")
    assert "TRACE" not in (answer.header("allow") or "")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("method", ["get", "Get", "gET", "post", "trace", "G3T", "G.T", "!"])
def test_methods_in_odd_letters_are_refused(scene: Scene, method: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"{method} / HTTP/1.1\nHost: good.example")
    scene.expect_denied(answer, "bad_method")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("method", ["PROPFIND", "PURGE", "DEBUG", "TRACK", "M-SEARCH"])
def test_methods_that_no_rule_names_are_denied(scene: Scene, method: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"{method} / HTTP/1.1\nHost: good.example")
    scene.expect_denied(answer, "method_not_allowed")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_the_asterisk_target_is_refused(scene: Scene, method: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"{method} * HTTP/1.1\nHost: good.example")
    scene.expect_denied(answer, "bad_target")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("authority", ["evil.example:443", "good.example:443", "good.example:22"])
def test_connect_inside_the_tunnel_is_refused(scene: Scene, authority: str) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        answer = wire.read()
    line = scene.verdict()
    assert answer.status == 400
    assert answer.reason == line["reason"] == "bad_method"
    scene.expect_nothing_upstream()


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_an_override_header_does_not_change_what_was_decided(scene: Scene, name: str) -> None:
    with scene.tunnel("twin.example") as wire:
        answer = wire.request(f"DELETE /v1/x HTTP/1.1\nHost: twin.example\n{name}: GET")
    scene.expect_denied(answer, "method_not_allowed")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http_method", "X-Method-Override"])
def test_an_override_header_asks_for_nothing_that_was_not_decided(scene: Scene, name: str) -> None:
    with scene.tunnel("twin.example") as wire:
        answer = wire.request(f"GET /v1/x HTTP/1.1\nHost: twin.example\n{name}: DELETE")
    scene.expect_denied(answer, "bad_method")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize(
    "query", ["_method=DELETE", "$httpMethod=delete", "a=1&%5Fmethod=PUT", "X-HTTP-Method=PATCH"]
)
def test_a_parameter_asks_for_no_other_method(scene: Scene, query: str) -> None:
    """Google's APIs and web frameworks would answer for that one."""
    with scene.tunnel("twin.example") as wire:
        answer = wire.request(f"POST /v1/x?{query} HTTP/1.1\nHost: twin.example")
    scene.expect_denied(answer, "bad_method")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize("query", ["_method=get", "method=DELETE", "rpc_method=x"])
def test_a_parameter_that_asks_for_the_same_method_or_none_passes(scene: Scene, query: str) -> None:
    answer = scene.request("twin.example", f"/v1/x?{query}")
    assert answer.status == 200
    scene.expect_allowed("twin.example")


@pytest.mark.attack("odd method")
@pytest.mark.parametrize(
    "name",
    ["X-Original-URL", "X_Rewrite_Url", "x-original-uri", "X.Forwarded.Uri", "X-Original-Path"],
)
def test_an_override_header_asks_for_no_other_path(scene: Scene, name: str) -> None:
    with scene.tunnel("twin.example") as wire:
        answer = wire.request(f"GET /v1/x HTTP/1.1\nHost: twin.example\n{name}: /admin")
    line = scene.expect_denied(answer, "path_not_canonical")
    assert line["detail"] == "a header asks for another path"


@pytest.mark.attack("odd method")
def test_the_denial_of_a_head_request_has_no_body(scene: Scene) -> None:
    """What a client took for the next answer would be the proxy's own body."""
    with scene.tunnel("other.example") as wire:
        denied = wire.request("HEAD /private/x HTTP/1.1\nHost: other.example")
        assert (denied.status, denied.header("proxy-status") is None) == (403, False)
        assert wire.request("GET /x HTTP/1.1\nHost: other.example").body == b"hello"


@pytest.mark.attack("smuggling")
def test_a_body_on_get_is_framed_anew_and_stays_one_request(scene: Scene) -> None:
    smuggled = b"GET /private/x HTTP/1.1\r\nHost: other.example\r\n\r\n"
    answer = scene.request("other.example", method="GET", body=smuggled)
    assert answer.status == 200
    (received,) = scene.expect_allowed("other.example")
    assert received.body == smuggled
