"""CONNECT host, server name, Host and target: one place, or nothing goes upstream."""

from __future__ import annotations

import contextlib
import ssl

import pytest
from tests.support.client import REFUSED, Wire, client_hello
from tests.support.scene import Scene

TLS_HANDSHAKE, TLS_ALERT = 0x16, 0x15


def tls_bytes(wire: Wire, hello: bytes) -> bytes:
    """What the proxy answers to a ClientHello until it closes; fails if it goes on."""
    return wire.send(hello).read_until_closed()


@pytest.mark.attack("other server name")
@pytest.mark.parametrize(
    "server_name",
    [
        "evil.example",
        "good.example.evil.example",
        "x.good.example",
        "other.example",
        "twin.example",
        "goodexample",
        "localhost",
    ],
)
def test_server_name_that_is_not_the_tunnels_closes_before_any_certificate(
    scene: Scene, server_name: str
) -> None:
    with scene.wire() as wire:
        assert wire.connect("good.example:443").status == 200
        answered = tls_bytes(wire, client_hello(server_name))
    assert answered[:1] != bytes([TLS_HANDSHAKE]), "the proxy went on with the handshake"
    line = scene.expect_rejected("sni_mismatch", event="connection.rejected")
    assert line["http"] == {"host": "good.example", "port": 443}
    assert scene.server_names_seen("good.example") == []


@pytest.mark.attack("other server name")
@pytest.mark.parametrize("host", ["good.example", "evil.example"])
def test_wrong_server_name_gets_no_request_through(scene: Scene, host: str) -> None:
    with scene.wire() as wire:
        wire.connect("good.example:443")
        with pytest.raises(REFUSED):
            wire.start_tls("evil.example", verify=False).request(f"GET / HTTP/1.1\nHost: {host}")
    scene.expect_rejected("sni_mismatch", event="connection.rejected")


@pytest.mark.attack("other server name")
def test_server_name_in_other_letters_is_the_same_name(scene: Scene) -> None:
    with scene.wire() as wire:
        wire.connect("good.example:443")
        hello = client_hello("GOOD.example")
        wire.send(hello)
        assert wire.socket.recv(1) == bytes([TLS_HANDSHAKE])
    assert scene.verdict()["reason"] == "client_closed"


@pytest.mark.attack("other server name")
def test_without_a_server_name_the_tunnels_host_counts(scene: Scene) -> None:
    with scene.wire() as wire:
        wire.connect("good.example:443")
        wire.start_tls(None)
        assert isinstance(wire.socket, ssl.SSLSocket)
        names = [value for _, value in (wire.socket.getpeercert() or {})["subjectAltName"]]
        answer = wire.request("GET / HTTP/1.1\nHost: good.example")
    assert names == ["good.example"]
    assert answer.status == 200
    scene.expect_allowed("good.example")
    assert set(scene.server_names_seen("good.example")) <= {"good.example"}


@pytest.mark.attack("other host header")
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "other.example",
        "twin.example",
        "good.example:22",
        "good.example:80",
        "good.example.evil.example",
        "x.good.example",
        "127.0.0.1",
    ],
)
def test_another_host_header_is_misdirected(scene: Scene, host: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(
            f"GET / HTTP/1.1\nHost: {host}\nX-Api-Key: {scene.placeholder('good')}"
        )
    scene.expect_denied(answer, "host_mismatch")


@pytest.mark.attack("other target")
@pytest.mark.parametrize(
    "host",
    ["", "good.example:", "u@good.example", "good.example, evil.example", "good.example/",
     "[good.example]", "good.example:0443443", "good example", "good.example:443:443"],
)  # fmt: skip
def test_malformed_host_header_is_refused(scene: Scene, host: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"GET / HTTP/1.1\nHost: {host}")
    scene.expect_denied(answer, "bad_header")


@pytest.mark.attack("other target")
@pytest.mark.parametrize(
    "hosts",
    [
        ["good.example", "good.example"],
        ["good.example", "evil.example"],
        ["evil.example", "good.example"],
        [],
    ],
)
def test_exactly_one_host_header_is_accepted(scene: Scene, hosts: list[str]) -> None:
    lines = ["GET / HTTP/1.1", *(f"Host: {host}" for host in hosts), "Accept: */*"]
    with scene.tunnel("good.example") as wire:
        answer = wire.request("\n".join(lines))
    scene.expect_denied(answer, "bad_header")


@pytest.mark.attack("other host header")
@pytest.mark.parametrize(
    "name", ["hOST", "Host ", " Host", "Host\t", "X-Forwarded-Host", "Forwarded"]
)
def test_a_second_opinion_about_the_host_never_wins(scene: Scene, name: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"GET / HTTP/1.1\nHost: good.example\n{name}: evil.example")
    if answer.status == 200:
        assert name in {"X-Forwarded-Host", "Forwarded"}
        (received,) = scene.expect_allowed("good.example")
        assert received.header("host") == "good.example"
    else:
        scene.expect_denied(answer, "bad_header")


@pytest.mark.attack("other target")
@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/x",
        "http://evil.example/x",
        "https://good.example/x",
        "https://good.example:443/x",
        "//evil.example/x",
        "evil.example/x",
        "evil.example:443",
        "ftp://evil.example/x",
        "https:/evil.example",
        "@evil.example/",
    ],
)
def test_a_target_in_the_tunnel_names_no_host(scene: Scene, target: str) -> None:
    with scene.tunnel("good.example") as wire:
        answer = wire.request(f"GET {target} HTTP/1.1\nHost: good.example")
    if target.startswith("//"):
        # origin-form: a path, with an empty segment, at the tunnel's own host
        (received,) = scene.expect_allowed("good.example")
        assert received.target == target
        assert received.header("host") == "good.example"
    else:
        scene.expect_denied(answer, "bad_target")


@pytest.mark.attack("nested tls")
def test_tls_inside_the_tunnels_tls_is_refused(scene: Scene) -> None:
    with scene.tunnel("good.example") as wire:
        wire.send(client_hello("evil.example"))
        scene.expect_closed(wire, "nested_tls")


@pytest.mark.attack("nested tls")
def test_tls_after_the_first_request_is_refused(scene: Scene) -> None:
    with scene.tunnel("good.example") as wire:
        assert wire.request("GET / HTTP/1.1\nHost: good.example").status == 200
        wire.send(client_hello("evil.example"))
        assert wire.read_until_closed() == b""
    allowed, rejected = scene.verdicts()
    assert allowed["reason"] == "allowed"
    assert rejected["event"] == "connection.rejected"
    assert rejected["reason"] == "nested_tls"
    assert len(scene.seen("good.example")) == 1


@pytest.mark.attack("nested tls")
@pytest.mark.parametrize("requests", [0, 1])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_tls_inside_the_tunnels_tls_is_known_by_its_first_bytes(
    scene: Scene, first: int, requests: int
) -> None:
    hello = client_hello("evil.example")
    with scene.tunnel("good.example") as wire:
        for _ in range(requests):
            assert wire.request("GET / HTTP/1.1\nHost: good.example").status == 200
        wire.send(hello[:first])
        scene.proxy.admin("/healthz")  # the same event loop's, which has read them by then
        with contextlib.suppress(*REFUSED):
            wire.send(hello[first:])
        assert wire.read_until_closed() == b""
    assert scene.verdicts()[-1]["reason"] == "nested_tls"
    assert len(scene.seen("good.example")) == requests


@pytest.mark.attack("no tls")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cleartext_in_a_tunnel_to_443_carries_no_secret(scene: Scene, method: str) -> None:
    with scene.wire() as wire:
        wire.connect("good.example:443")
        answer = wire.request(
            f"{method} / HTTP/1.1\nHost: good.example\nX-Api-Key: {scene.placeholder('good')}"
        )
    scene.expect_denied(answer, "tls_required")


@pytest.mark.attack("no tls")
@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("GET http://good.example/ HTTP/1.1\nHost: good.example", {"tls_required"}),
        ("GET http://good.example:443/ HTTP/1.1\nHost: good.example:443", {"tls_required"}),
        ("GET http://evil.example/ HTTP/1.1\nHost: evil.example", {"host_not_allowed"}),
        ("GET http://evil.example/ HTTP/1.1\nHost: good.example", {"bad_header"}),
        ("GET http://plain.example/ HTTP/1.1\nHost: good.example", {"bad_header"}),
        ("GET http://plain.example/ HTTP/1.1\nHost: plain.example:81", {"bad_header"}),
        ("GET http://plain.example:81/ HTTP/1.1\nHost: plain.example:81", {"port_not_allowed"}),
        ("GET http://u@plain.example/ HTTP/1.1\nHost: plain.example", {"bad_target"}),
        ("GET https://good.example/ HTTP/1.1\nHost: good.example", {"bad_target"}),
        ("GET ftp://plain.example/ HTTP/1.1\nHost: plain.example", {"bad_target"}),
        ("GET http:///x HTTP/1.1\nHost: plain.example", {"bad_target"}),
        ("GET http://plain.example HTTP/1.1\nHost: plain.example", {"bad_target"}),
        ("GET / HTTP/1.1\nHost: plain.example", {"bad_target"}),
        ("GET /metrics HTTP/1.1\nHost: 127.0.0.1", {"bad_target"}),
        ("GET http://mitm.it/ HTTP/1.1\nHost: mitm.it", {"host_not_allowed"}),
        ("OPTIONS * HTTP/1.1\nHost: plain.example", {"bad_target"}),
    ],
)  # fmt: skip
def test_plain_proxying_reaches_only_what_a_rule_allows_in_plain(
    scene: Scene, head: str, reason: set[str]
) -> None:
    with scene.wire() as wire:
        answer = wire.request(f"{head}\nX-Api-Key: {scene.placeholder('good')}")
    assert answer.reason in reason, answer
    scene.expect_denied(answer, answer.reason)


@pytest.mark.attack("no tls")
def test_plain_proxying_works_where_a_rule_says_so(scene: Scene) -> None:
    with scene.wire() as wire:
        answer = wire.request("GET http://plain.example/a?b HTTP/1.1\nHost: plain.example")
    assert answer.status == 200
    (received,) = scene.expect_allowed("plain.example")
    assert received.request_line == "GET /a?b HTTP/1.1"


@pytest.mark.attack("not http")
def test_tls_to_the_proxys_own_port_gets_no_certificate(scene: Scene) -> None:
    with scene.wire() as wire:
        answered = tls_bytes(wire, client_hello("good.example"))
    assert answered[:1] != bytes([TLS_HANDSHAKE])
    scene.expect_rejected("not_http", event="connection.rejected")
