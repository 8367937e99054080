"""A placeholder is swapped in one place only: whole, alone, in a carrier of its own host."""

from __future__ import annotations

import base64
import urllib.parse

import pytest
from tests.support.scene import Scene
from tests.support.world import GOOD_SECRET

VIOLATIONS = (
    'understudy_credential_violations_total{connection="good",reason="placeholder_wrong_host"}'
)
FOREIGN = "sk-ant-api03-an-attackers-own-key-0123456789abcdef"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# -- what works, so that the rest means something


@pytest.mark.attack("misplaced placeholder")
@pytest.mark.parametrize(
    ("name", "written", "location"),
    [
        ("X-Api-Key", "{}", "header:x-api-key"),
        ("x-aPI-kEY", "{}", "header:x-api-key"),
        ("Authorization", "Bearer {}", "header:authorization"),
        ("Authorization", "token {}", "header:authorization"),
        ("Authorization", "bearer {}", "header:authorization"),
    ],
)
def test_whole_placeholder_in_a_carrier_becomes_the_secret(
    scene: Scene, name: str, written: str, location: str
) -> None:
    value = written.format(scene.placeholder("good"))
    answer = scene.request("good.example", headers=[(name, value)])
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.header(name) == written.format(GOOD_SECRET)
    assert scene.verdict()["swapped"] == [{"secret": "GOOD_KEY", "location": location}]


@pytest.mark.attack("misplaced placeholder")
def test_basic_password_becomes_the_secret(scene: Scene) -> None:
    value = basic("x-access-token", scene.placeholder("good"))
    assert scene.request("good.example", headers=[("Authorization", value)]).status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.header("authorization") == basic("x-access-token", GOOD_SECRET)
    assert scene.verdict()["swapped"] == [{"secret": "GOOD_KEY", "location": "basic:password"}]


@pytest.mark.attack("misplaced placeholder")
def test_query_carrier_becomes_the_secret_and_is_not_logged(scene: Scene) -> None:
    answer = scene.request("good.example", f"/x?a=1&key={scene.placeholder('good')}&b=2")
    assert answer.status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.target == f"/x?a=1&key={GOOD_SECRET}&b=2"
    assert scene.verdict()["http"]["path"] == "/x"


# -- rows 21 and 24: other places


def headers_with(place: str, placeholder: str) -> list[tuple[str, str]]:
    p = placeholder
    quoted = urllib.parse.quote(p[:5]) + "".join(f"%{ord(c):02x}" for c in p[5:])
    doubly = quoted.replace("%", "%25")
    return {
        "cookie": [("Cookie", f"session={p}")],
        "whole cookie": [("Cookie", p)],
        "other header": [("X-Debug", p)],
        "part of other header": [("User-Agent", f"agent/1.0 ({p})")],
        "header name": [(p, "x")],
        "substring before": [("X-Api-Key", f"x{p}")],
        "substring after": [("X-Api-Key", f"{p}y")],
        "substring both": [("X-Api-Key", f"x{p}y")],
        "in bearer": [("Authorization", f"Bearer x{p}")],
        "bearer with comma": [("Authorization", f"Bearer {p}, Bearer {p}")],
        "scheme missing": [("Authorization", p)],
        "other scheme": [("Authorization", f"Digest {p}")],
        "two spaces in the middle": [("Authorization", f"Bearer x {p}")],
        "basic username": [("Authorization", basic(p, "x"))],
        "basic both": [("Authorization", basic(p, p))],
        "basic substring": [("Authorization", basic("u", f"x{p}y"))],
        "basic with colon": [("Authorization", basic("u", f"v:{p}"))],
        "percent encoded": [("X-Debug", quoted)],
        "doubly percent encoded": [("X-Debug", doubly)],
        "referer": [("Referer", f"https://good.example/?k={p}")],
        "repeated in one": [("X-Api-Key", p + p)],
        "forwarded": [("X-Forwarded-For", p)],
        "other host's header": [("X-Goog-Api-Key", p)],
    }[place]


PLACES = [
    "cookie", "whole cookie", "other header", "part of other header", "header name",
    "substring before", "substring after", "substring both", "in bearer", "bearer with comma",
    "scheme missing", "other scheme", "two spaces in the middle", "basic username", "basic both",
    "basic substring", "basic with colon", "percent encoded", "doubly percent encoded", "referer",
    "repeated in one", "forwarded", "other host's header",
]  # fmt: skip


@pytest.mark.attack("misplaced placeholder")
@pytest.mark.parametrize("place", PLACES)
def test_placeholder_anywhere_else_is_denied(scene: Scene, place: str) -> None:
    headers = headers_with(place, scene.placeholder("good"))
    answer = scene.request("good.example", headers=headers)
    assert answer.reason in {"placeholder_misplaced", "ambiguous_credential", "foreign_credential"}
    line = scene.expect_denied(answer, answer.reason)
    assert "swapped" not in line


@pytest.mark.attack("misplaced placeholder")
@pytest.mark.parametrize("place", PLACES)
def test_placeholder_in_its_carrier_and_anywhere_else_is_denied(scene: Scene, place: str) -> None:
    placeholder = scene.placeholder("good")
    headers = [("X-Api-Key", placeholder), *headers_with(place, placeholder)]
    answer = scene.request("good.example", headers=headers)
    assert answer.reason in {"placeholder_misplaced", "ambiguous_credential"}
    scene.expect_denied(answer, answer.reason)


@pytest.mark.attack("misplaced placeholder")
@pytest.mark.parametrize(
    "target",
    [
        "/{p}",
        "/v1/{p}/x",
        "/v1/x?token={p}",
        "/v1/x?key=x{p}",
        "/v1/x?key={p}y",
        "/v1/x?Key={p}",
        "/v1/x?{p}",
        "/v1/x?{p}=1",
        "/v1/x?key={p}&key={p}",
        "/v1/x?key={p}&other={p}",
        "/v1/x?key={q}&other=%{h}",
        "/v1/%{h}",
        "/v1/x?token=%{h}",
        "/v1/x?token=%25{h}",
    ],
)
def test_placeholder_in_the_target_is_denied(scene: Scene, target: str) -> None:
    placeholder = scene.placeholder("good")
    encoded = f"{ord(placeholder[0]):02x}{placeholder[1:]}"
    written = target.format(p=placeholder, q=placeholder, h=encoded)
    answer = scene.request("good.example", written)
    assert answer.reason in {"placeholder_misplaced", "ambiguous_credential", "foreign_credential"}
    scene.expect_denied(answer, answer.reason)


@pytest.mark.attack("foreign credential")
def test_two_carriers_at_once_are_ambiguous(scene: Scene) -> None:
    placeholder = scene.placeholder("good")
    answer = scene.request(
        "good.example",
        headers=[("X-Api-Key", placeholder), ("Authorization", f"Bearer {placeholder}")],
    )
    scene.expect_denied(answer, "ambiguous_credential")


# -- row 22: other keys


@pytest.mark.attack("foreign credential")
@pytest.mark.parametrize(
    "headers",
    [
        [("X-Api-Key", FOREIGN)],
        [("x_api_key", FOREIGN)],
        [("Authorization", f"Bearer {FOREIGN}")],
        [("Authorization", FOREIGN)],
        [("Authorization", basic("x-access-token", FOREIGN))],
        [("Authorization", "Digest username=x")],
        [("Authorization", "Negotiate abcdef")],
        [("Authorization", "AWS4-HMAC-SHA256 Credential=AKIA/x")],
        [("Authorization", "Basic !!!not base64!!!")],
        [("Authorization", "Basic")],
        [("Authorization", "Bearer")],
        [("Authorization", "")],
        [("X-Api-Key", "")],
        [("X-Goog-Api-Key", FOREIGN)],
        [("Api-Key", FOREIGN)],
        [("X-Auth-Token", FOREIGN)],
        [("Private-Token", FOREIGN)],
        [("X.Api.Key", FOREIGN)],
        [("XApiKey", FOREIGN)],
        [("X-Corp-Access-Token", FOREIGN)],
        [("X-Devpi-Auth", FOREIGN)],
        [("Token", FOREIGN)],
    ],
)
def test_no_other_credential_reaches_a_bound_host(
    scene: Scene, headers: list[tuple[str, str]]
) -> None:
    answer = scene.request("good.example", headers=headers)
    scene.expect_denied(answer, "foreign_credential")


@pytest.mark.attack("foreign credential")
@pytest.mark.parametrize(
    "target",
    [
        f"/?key={FOREIGN}",
        f"/?%6bey={FOREIGN}",
        "/?key=",
        f"/?%256bey={FOREIGN}",
        f"/?key%00a={FOREIGN}",
        f"/?key[]={FOREIGN}",
        f"/?a=1;key={FOREIGN}",
        f"/?a=1&amp;key={FOREIGN}",
        f"/?Authorization=Bearer%20{FOREIGN}",
        f"/?accessToken={FOREIGN}",
        f"/?X-Api-Key={FOREIGN}",
    ],
)
def test_no_other_key_reaches_a_bound_host_in_the_query(scene: Scene, target: str) -> None:
    answer = scene.request("good.example", target)
    scene.expect_denied(answer, "foreign_credential")


@pytest.mark.attack("foreign credential")
@pytest.mark.parametrize(
    "name", ["Authorization", "X-Goog-Api-Key", "Api-Key", "x_api_key", "X-Auth-Token", "X-API-KEY"]
)
@pytest.mark.parametrize("order", ["own first", "foreign first"])
def test_the_placeholder_and_another_key_are_ambiguous(scene: Scene, name: str, order: str) -> None:
    foreign = f"Bearer {FOREIGN}" if name == "Authorization" else FOREIGN
    headers = [("X-Api-Key", scene.placeholder("good")), (name, foreign)]
    if order == "foreign first":
        headers.reverse()
    answer = scene.request("good.example", headers=headers)
    scene.expect_denied(answer, "ambiguous_credential")


@pytest.mark.attack("foreign credential")
def test_cookies_do_not_reach_a_bound_host(scene: Scene) -> None:
    """A session of the attacker's would be a credential too."""
    answer = scene.request(
        "good.example",
        headers=[("X-Api-Key", scene.placeholder("good")), ("Cookie", "session=attacker")],
    )
    assert answer.status in {200, 403}
    assert b"attacker" not in scene.bytes_seen("good.example")


@pytest.mark.attack("misplaced placeholder")
def test_no_credential_at_all_goes_up_untouched(scene: Scene) -> None:
    assert scene.request("good.example").status == 200
    (received,) = scene.expect_allowed("good.example")
    assert received.headers("authorization") == received.headers("x-api-key") == []
    assert "swapped" not in scene.verdict()


# -- row 24: duplicates and joins


@pytest.mark.attack("joined credentials")
@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
@pytest.mark.parametrize("second", ["same", "foreign", "twin"])
@pytest.mark.parametrize("order", ["own first", "own last"])
def test_duplicate_credential_headers_are_refused(
    scene: Scene, name: str, second: str, order: str
) -> None:
    values = {
        "same": scene.placeholder("good"),
        "foreign": FOREIGN,
        "twin": scene.placeholder("twin"),
    }
    pair = [scene.placeholder("good"), values[second]]
    if order == "own last":
        pair.reverse()
    scheme = "Bearer " if name == "Authorization" else ""
    answer = scene.request("good.example", headers=[(name, scheme + value) for value in pair])
    assert answer.reason in {
        "ambiguous_credential", "placeholder_misplaced", "placeholder_wrong_host", "bad_header",
    }  # fmt: skip
    scene.expect_denied(answer, answer.reason)


@pytest.mark.attack("joined credentials")
@pytest.mark.parametrize("separator", [",", ", ", ";", " "])
def test_joined_credentials_are_refused(scene: Scene, separator: str) -> None:
    value = f"Bearer {scene.placeholder('good')}{separator}Bearer {FOREIGN}"
    answer = scene.request("good.example", headers=[("Authorization", value)])
    assert answer.reason in {"placeholder_misplaced", "ambiguous_credential"}
    scene.expect_denied(answer, answer.reason)


# -- row 23: the wrong host


@pytest.mark.attack("placeholder elsewhere")
@pytest.mark.parametrize("host", ["other.example", "twin.example"])
@pytest.mark.parametrize("name", ["X-Api-Key", "Authorization", "X-Debug", "Cookie"])
def test_placeholder_never_reaches_unbound_host(scene: Scene, host: str, name: str) -> None:
    before = scene.proxy.metrics()[VIOLATIONS]
    value = scene.placeholder("good")
    answer = scene.request(
        host, "/v1/x", headers=[(name, f"Bearer {value}" if name == "Authorization" else value)]
    )
    scene.expect_denied(answer, "placeholder_wrong_host")
    assert scene.proxy.metrics()[VIOLATIONS] == before + 1


@pytest.mark.attack("placeholder elsewhere")
@pytest.mark.parametrize("target", ["/v1/{p}", "/v1/x?key={p}", "/v1/x?y=%{h}"])
def test_placeholder_in_a_target_never_reaches_unbound_host(scene: Scene, target: str) -> None:
    placeholder = scene.placeholder("good")
    encoded = f"{ord(placeholder[0]):02x}{placeholder[1:]}"
    answer = scene.request("other.example", target.format(p=placeholder, h=encoded))
    scene.expect_denied(answer, "placeholder_wrong_host")


@pytest.mark.attack("placeholder elsewhere")
@pytest.mark.parametrize("junk", ["!", " ", ",", "=", "\t", "\xff"])
def test_no_server_finds_a_placeholder_in_broken_basic(scene: Scene, junk: str) -> None:
    """Forgiving ones leave out what is no letter of base64."""
    written = basic("u", scene.placeholder("good"))[6:]
    broken = f"Basic x{junk}{written[:9]}{junk}{written[9:]}"
    answer = scene.request("other.example", headers=[("Authorization", broken)])
    scene.expect_denied(answer, "placeholder_wrong_host")


@pytest.mark.attack("placeholder elsewhere")
def test_placeholder_in_plain_http_goes_nowhere(scene: Scene) -> None:
    with scene.wire() as wire:
        answer = wire.request(
            "GET http://plain.example/ HTTP/1.1\nHost: plain.example\n"
            f"X-Api-Key: {scene.placeholder('good')}"
        )
    scene.expect_denied(answer, "placeholder_wrong_host")


@pytest.mark.attack("placeholder elsewhere")
def test_both_placeholders_are_wrong_on_either_host(scene: Scene) -> None:
    answer = scene.request(
        "good.example",
        headers=[
            ("X-Api-Key", scene.placeholder("good")),
            ("Authorization", f"Bearer {scene.placeholder('twin')}"),
        ],
    )
    scene.expect_denied(answer, "placeholder_wrong_host")


@pytest.mark.attack("placeholder elsewhere")
def test_an_unbound_host_gets_the_agents_own_headers(scene: Scene) -> None:
    """Keys that this proxy does not guard are the agent's own business on other hosts."""
    answer = scene.request("other.example", headers=[("Authorization", f"Bearer {FOREIGN}")])
    assert answer.status == 200
    (received,) = scene.expect_allowed("other.example")
    assert received.header("authorization") == f"Bearer {FOREIGN}"
