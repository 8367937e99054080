"""Where a CONNECT may lead: what is not allowed is refused before any look-up or dial."""

from __future__ import annotations

import pytest
from tests.support.client import Answer
from tests.support.scene import Scene


def connect(scene: Scene, authority: str | bytes) -> Answer:
    with scene.wire() as wire:
        return wire.connect(authority)


@pytest.mark.attack("unlisted host")
@pytest.mark.parametrize(
    "authority",
    [
        "evil.example:443",
        "EVIL.example:443",
        "evil.example.:443",
        "data-0123456789abcdef.evil.example:443",  # a look-up would carry the data out
        "x" * 60 + ".evil.example:443",
        "evilgood.example:443",
        "good.example.evil.example:443",
        "evil-good.example:443",
        "xn--gd-fkaa.example:443",
        "example:443",
        "2130706433.example:443",
        "169.254.169.254:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "[64:ff9b::a9fe:a9fe]:443",
        "plain.example.evil.example:80",
    ],
)
def test_unlisted_host_is_denied_at_connect_without_lookup_or_dial(
    scene: Scene, authority: str
) -> None:
    line = scene.expect_denied(connect(scene, authority), "host_not_allowed", event="tunnel.denied")
    assert line["http"]["method"] == "CONNECT"
    assert line["http"]["host"] == authority.rpartition(":")[0]


@pytest.mark.attack("unlisted host")
def test_unlisted_host_stays_denied_for_every_name_that_the_client_claims(scene: Scene) -> None:
    """CONNECT evil, Host good: the header does not count."""
    with scene.wire() as wire:
        wire.send(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n")
        answer = wire.read()
    scene.expect_denied(answer, "host_not_allowed", event="tunnel.denied")


@pytest.mark.attack("unlisted host")
def test_nothing_sent_after_a_denied_connect_is_looked_at(scene: Scene) -> None:
    with scene.wire() as wire:
        wire.send(
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"
            b"\x16\x03\x01\x00\x05hello"
        )
        answer = wire.read()
        wire.read_until_closed()
    denied, *more = scene.verdicts()
    assert (denied["event"], denied["reason"]) == ("tunnel.denied", "host_not_allowed")
    assert [line["reason"] for line in more] in ([], ["not_http"])
    assert answer.reason == "host_not_allowed"
    scene.expect_nothing_upstream()


@pytest.mark.attack("other port")
@pytest.mark.parametrize("port", [22, 25, 53, 80, 442, 444, 5353, 8080, 65535])
def test_ports_other_than_the_rules_are_denied_at_connect(scene: Scene, port: int) -> None:
    answer = connect(scene, f"good.example:{port}")
    scene.expect_denied(answer, "port_not_allowed", event="tunnel.denied")


@pytest.mark.attack("odd spellings")
@pytest.mark.parametrize(
    "authority",
    [
        b"good.example",
        b"good.example:",
        b"good.example:0",
        b"good.example:65536",
        b"good.example:+443",
        b"good.example:443:443",
        b"good.example:4e2",
        "good.example:٤٤٣".encode(),
        b"u@good.example:443",
        b"u:p@good.example:443",
        b"[good.example]:443",
        b"good.example%00:443",
        b"good%2eexample:443",
        b"good.example..:443",
        b".good.example:443",
        b"good..example:443",
        b"good_.example:443\x00",
        b"*.good.example:443",
        b"http://good.example:443",
        b"/good.example:443",
        b"good.example/:443",
        b"good.example:443/",
        b"good.example:443?x",
        b"good.example,evil.example:443",
        b"[::1:443",
        b"[::1%25lo]:443",
        b"-good.example:443",
        "ｇood.example:443".encode(),  # noqa: RUF001 - full-width letters are the attack
        "good。example:443".encode(),
        b"x" * 300 + b".example:443",
        b"\xff\xfe.example:443",
    ],
)
def test_odd_authority_is_malformed_or_unlisted_never_two_opinions(
    scene: Scene, authority: bytes
) -> None:
    with scene.wire() as wire:
        answer = wire.connect(authority)
    assert answer.reason in {"bad_target", "bad_header", "host_not_allowed"}, answer
    line = scene.verdict()
    assert line["reason"] == answer.reason
    assert line["verdict"] == "deny"
    scene.expect_nothing_upstream()


@pytest.mark.attack("odd spellings")
@pytest.mark.parametrize("authority", ["GOOD.EXAMPLE:443", "good.example.:443", "gOOd.eXample:443"])
def test_spellings_of_an_allowed_host_are_that_host(scene: Scene, authority: str) -> None:
    with scene.wire() as wire:
        assert wire.connect(authority).status == 200
        wire.start_tls("good.example")
        answer = wire.request("GET / HTTP/1.1\nHost: good.example")
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.header("host") == "good.example"
    assert scene.server_names_seen("good.example") in (["good.example"], [])
    assert scene.verdict()["http"]["host"] == "good.example"


@pytest.mark.attack("odd spellings")
@pytest.mark.parametrize(("version", "status"), [("1.0", 200), ("1.1", 400)])
def test_a_tunnel_of_http_1_0_needs_no_host_header(scene: Scene, version: str, status: int) -> None:
    """Python up to 3.11 and PHP send none; RFC 9112 3.2 demands one of HTTP/1.1."""
    with scene.wire() as wire:
        wire.send(f"CONNECT other.example:443 HTTP/{version}\r\n\r\n".encode())
        assert wire.read(connect=True).status == status
        if status == 200:
            wire.start_tls("other.example")
            assert wire.request("GET / HTTP/1.1\nHost: other.example").status == 200
            scene.expect_allowed("other.example")


@pytest.mark.attack("odd spellings")
@pytest.mark.parametrize(
    "head",
    [
        b"CONNECT good.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n",
        b"CONNECT good.example:443 HTTP/1.0\r\nHost: good.example\r\nHost: good.example\r\n\r\n",
        b"GET http://plain.example/ HTTP/1.0\r\n\r\n",
    ],
)
def test_all_else_needs_exactly_one_host(scene: Scene, head: bytes) -> None:
    with scene.wire() as wire:
        answer = wire.send(head).read()
    assert answer.reason == "bad_header"
    assert scene.verdict()["reason"] == "bad_header"
    scene.expect_nothing_upstream()


@pytest.mark.attack("unlisted host")
@pytest.mark.engine("express")
def test_a_denied_tunnel_of_http_1_0_ends_its_connection(scene: Scene) -> None:
    """Its client may read the denial until there is no more."""
    with scene.wire() as wire:
        wire.send(b"CONNECT evil.example:443 HTTP/1.0\r\n\r\n")
        answer = wire.read()
        assert wire.read_until_closed() == b""
    assert answer.header("connection") == "close"
    scene.expect_denied(answer, "host_not_allowed", event="tunnel.denied")


@pytest.mark.attack("odd spellings")
def test_a_wildcard_matches_below_it_only(scene: Scene) -> None:
    answer = connect(scene, "evilgood.example:443")
    scene.expect_denied(answer, "host_not_allowed", event="tunnel.denied")


@pytest.mark.attack("own port")
@pytest.mark.parametrize("what", ["proxy", "admin"])
def test_the_proxys_own_ports_are_not_reached_by_address(scene: Scene, what: str) -> None:
    """127.0.0.1 is in the policy, but not this port."""
    url = scene.proxy.url if what == "proxy" else scene.proxy.admin_url
    answer = connect(scene, url.removeprefix("http://"))
    scene.expect_denied(answer, "port_not_allowed", event="tunnel.denied")


@pytest.mark.attack("guarded address")
def test_guarded_address_in_the_policy_is_denied_before_the_dial(scene: Scene) -> None:
    answer = scene.request("127.0.0.1", port=8443)
    scene.expect_denied(answer, "address_denied")


@pytest.mark.attack("guarded address")
def test_allowed_name_that_resolves_to_metadata_is_denied_before_the_dial(scene: Scene) -> None:
    before = len(scene.proxy.spied("socket.connect"))
    answer = scene.request("guarded.example")
    line = scene.verdict()
    assert answer.status == 403
    assert answer.reason == line["reason"] == "address_denied"
    assert len(scene.proxy.spied("socket.connect")) == before
    for word in (b"169.254", b"metadata"):
        assert word not in answer.head + answer.body
