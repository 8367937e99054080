"""What a client may not ask of the gateway: its administration, its routing, its credentials."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.proxy import Proxy
from tests.support.scene import Scene, expect_no_secret_written
from tests.support.upstream import Upstream, answer

OPENAI_KEY = "sk-virtual-openai-5d1c7f0a2b9e"
ANTHROPIC_KEY = "sk-virtual-anthropic-88e1a0c4d3f2"
SECRETS = {OPENAI_KEY: ("gateway.example",), ANTHROPIC_KEY: ("gateway.example",)}
PROMPT = {"model": "gpt-5", "messages": [{"role": "user", "content": "ping"}]}


@dataclass
class Place:
    proxy: Proxy
    upstreams: dict[str, Upstream]
    kind: str


@pytest.fixture(scope="module", params=["litellm", "portkey", "generic"])
def place(
    request: pytest.FixtureRequest,
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[Place]:
    policy = {
        "gateway": {
            "url": "https://gateway.example",
            "kind": request.param,
            "providers": ["openai", "anthropic"],
        },
        "connections": {
            "openai-team": {"provider": "openai", "secret": {"env": "OPENAI_API_KEY"}},
            "anthropic-team": {"provider": "anthropic", "secret": {"env": "ANTHROPIC_API_KEY"}},
        },
        "allow": [
            {"name": "gpt", "connection": "openai-team"},
            {"name": "claude", "connection": "anthropic-team"},
        ],
    }
    names = ("api.openai.com", "api.anthropic.com", "gateway.example")
    with (
        Upstream(names[0], upstream_ca) as openai,
        Upstream(names[1], upstream_ca) as anthropic,
        Upstream(names[2], upstream_ca) as gateway,
    ):
        upstreams = [openai, anthropic, gateway]
        complete = complete_policy(policy, upstreams, upstream_ca_file)
        environ = {"OPENAI_API_KEY": OPENAI_KEY, "ANTHROPIC_API_KEY": ANTHROPIC_KEY}
        folder = tmp_path_factory.mktemp(request.param)
        with Proxy(complete, folder, engine, environ=environ) as proxy:
            yield Place(proxy, {u.name: u for u in upstreams}, request.param)
            expect_no_secret_written(proxy, SECRETS)


@pytest.fixture
def at_gateway(place: Place) -> Iterator[Scene]:
    scene = Scene(place.proxy, place.upstreams, SECRETS)
    yield scene
    scene.leave()


def bearer(scene: Scene) -> tuple[str, str]:
    return "Authorization", f"Bearer {scene.placeholder('openai-team')}"


@pytest.mark.attack("gateway override")
def test_provider_traffic_goes_to_the_gateway_and_nowhere_else(
    at_gateway: Scene, place: Place
) -> None:
    body = json.dumps(PROMPT).encode()
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/chat/completions",
        method="POST",
        headers=[bearer(at_gateway), ("Content-Type", "application/json")],
        body=body,
    )
    assert answer.status == 200
    (received,) = at_gateway.expect_allowed("gateway.example")
    assert received.header("host") == "gateway.example"
    assert received.body == body
    assert set(at_gateway.server_names_seen("gateway.example")) <= {"gateway.example"}
    name = "x-portkey-api-key" if place.kind == "portkey" else "authorization"
    assert OPENAI_KEY in (received.header(name) or "")
    assert at_gateway.verdict()["gateway"]["host"] == "gateway.example"


@pytest.mark.attack("reflection in disguise")
def test_the_gateway_gives_back_no_key_of_another_provider(at_gateway: Scene) -> None:
    gateway = at_gateway.upstreams["gateway.example"]
    log = f"last keys: {OPENAI_KEY}, {ANTHROPIC_KEY}".encode()
    gateway.handler = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(log), log))
    try:
        answered = at_gateway.request("api.openai.com", "/v1/models", headers=[bearer(at_gateway)])
    finally:
        gateway.handler = None
    names = ("openai-team", "anthropic-team")
    said = ", ".join(at_gateway.placeholder(name) for name in names)
    assert answered.body == f"last keys: {said}".encode()
    at_gateway.settle()
    (finished,) = at_gateway.events("request.finished")
    assert finished["reflected"] == 2


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    "path",
    [
        "/key/generate",
        "/key/info",
        "/user/new",
        "/team/new",
        "/model/new",
        "/config/update",
        "/v1/key/generate",
        "/v1/organization/api_keys",
        "/v1/files",
        "/metrics",
        "/health",
        "/",
        "//key/generate",
        "/v1//key/generate",
        "/gemini/key/generate",
        "/openai/deployments/x/chat/completions",
        "/v1/chat/completions/../../key/generate",
        "/v1/models/..%2f..%2fkey%2fgenerate",
        "/v1/models/x%2fy",
        "/v1/responses/x%3f/cancel",
    ],
)
@pytest.mark.parametrize("host", ["api.openai.com", "gateway.example"])
def test_only_the_model_api_is_open_at_the_gateway(at_gateway: Scene, host: str, path: str) -> None:
    for method in ("POST", "GET", "DELETE"):
        scene = Scene(at_gateway.proxy, at_gateway.upstreams, SECRETS)
        answer = scene.request(host, path, method=method, headers=[bearer(scene)])
        assert answer.reason in {"gateway_route_denied", "path_not_canonical"}
        scene.expect_denied(answer, answer.reason)


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("x-portkey-custom-host", {"portkey", "generic"}),
        ("X-Portkey-Custom-Host", {"portkey", "generic"}),
        ("x_portkey_custom_host", {"portkey", "generic"}),
        ("x_portkey-config", {"portkey", "generic"}),
        ("x-portkey-provider", {"portkey", "generic"}),
        ("x-portkey-virtual-key", {"portkey", "generic"}),
        ("x-litellm-api-base", {"litellm", "generic"}),
        ("X_LiteLLM_Api_Base", {"litellm", "generic"}),
        ("x-litellm-enable-message-redaction", {"litellm", "generic"}),
        ("x-pass-x-goog-user-project", {"litellm", "generic"}),
        ("X.Portkey.Custom.Host", {"portkey", "generic"}),
        ("Helicone-Target-Url", {"generic"}),
        ("X-Original-URL", {"litellm", "portkey", "generic"}),
        ("X-Rewrite-URL", {"litellm", "portkey", "generic"}),
        ("X-HTTP-Method-Override", {"litellm", "portkey", "generic"}),
        ("x_http_method_override", {"litellm", "portkey", "generic"}),
    ],
)
def test_control_headers_are_refused(
    at_gateway: Scene, place: Place, name: str, kinds: set[str]
) -> None:
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/models",
        headers=[bearer(at_gateway), (name, "https://evil.example")],
    )
    if place.kind in kinds:
        at_gateway.expect_denied(answer, "gateway_override_denied")


@pytest.mark.attack("gateway override")
def test_a_second_credential_for_the_gateway_is_overwritten_or_refused(
    at_gateway: Scene,
) -> None:
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/models",
        headers=[bearer(at_gateway), ("x-portkey-api-key", "an-attackers-own-portkey-key")],
    )
    at_gateway.settle()
    assert b"attackers" not in at_gateway.bytes_seen("gateway.example")
    assert answer.status in {200, 403}


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer sk-an-attackers-own-virtual-key-0123456789")],
        [("x-api-key", "sk-an-attackers-own-virtual-key-0123456789")],
        [("x-goog-api-key", "an-attackers-own-key-0123456789-abcdefgh")],
    ],
)
@pytest.mark.parametrize("host", ["api.openai.com", "gateway.example"])
def test_no_other_key_reaches_the_gateway(
    at_gateway: Scene, host: str, headers: list[tuple[str, str]]
) -> None:
    answer = at_gateway.request(host, "/v1/models", headers=headers)
    at_gateway.expect_denied(answer, "foreign_credential")


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize("connection", ["openai-team", "anthropic-team"])
def test_a_placeholder_is_for_its_own_provider(at_gateway: Scene, connection: str) -> None:
    host = "api.anthropic.com" if connection == "openai-team" else "api.openai.com"
    value = f"Bearer {at_gateway.placeholder(connection)}"
    answer = at_gateway.request(host, "/v1/models", headers=[("Authorization", value)])
    at_gateway.expect_denied(answer, "placeholder_wrong_host")


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    "query",
    [
        "api_base=https://evil.example",
        "%61pi_base=x",
        "user_config[a]=b",
        "base_url=x",
        "Base_URL=x",
        "a=1;api_base=x",
        "_method=DELETE",
    ],
)
def test_routing_fields_in_the_query_are_refused(at_gateway: Scene, query: str) -> None:
    answer = at_gateway.request(
        "api.openai.com",
        f"/v1/chat/completions?{query}",
        method="POST",
        headers=[bearer(at_gateway)],
    )
    at_gateway.expect_denied(answer, "gateway_override_denied")


def body_with(field: str) -> dict[str, bytes]:
    plain = json.dumps(PROMPT | {field: "https://evil.example"})
    return {
        "plain": plain.encode(),
        "escaped name": plain.replace(field, f"\\u{ord(field[0]):04x}{field[1:]}").encode(),
        "one level down": json.dumps(PROMPT | {"extra_body": {field: "x"}}).encode(),
        "metadata as text": json.dumps(PROMPT | {"metadata": json.dumps({field: "x"})}).encode(),
        "twice": b'{"model": "x", "%s": 1, "%s": 2}' % (field.encode(), field.encode()),
        "utf-16": plain.encode("utf-16"),
        "utf-32": plain.encode("utf-32-le"),
        "utf-8 with a mark": b"\xef\xbb\xbf" + plain.encode(),
        "white space first": b" \r\n\t" + plain.encode(),
        "nearly json": plain[:-1].encode() + b",}",
        "form": b"model=x&" + field.encode() + b"=https%3A%2F%2Fevil.example",
        "form, escaped": b"model=x&%" + f"{ord(field[0]):02x}{field[1:]}=y".encode(),
        "multipart": b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n--b--\r\n'
        % field.encode(),
    }


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize("framing", ["length", "chunked", "large"])
@pytest.mark.parametrize("how", list(body_with("api_base")))
def test_routing_fields_in_the_body_never_arrive(at_gateway: Scene, how: str, framing: str) -> None:
    body = body_with("api_base")[how]
    if framing == "large":
        # Larger than what is kept back for a look: found as it streams.
        filler = b" " * (1 << 20)
        body = filler.decode().encode("utf-16") + body if "utf-16" in how else body + filler
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: api.openai.com",
        ": ".join(bearer(at_gateway)),
        "Content-Type: application/json",
    ]
    with at_gateway.tunnel("api.openai.com") as wire:
        if framing == "chunked":
            head.append("Transfer-Encoding: chunked")
            pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
        else:
            head.append(f"Content-Length: {len(body)}")
        answer = wire.request("\n".join(head), body)
    assert answer.status == 403
    assert answer.reason == "gateway_override_denied"
    assert len(at_gateway.verdicts()) == 1
    if framing == "length":
        at_gateway.expect_denied(answer, "gateway_override_denied")
    else:
        (finished,) = at_gateway.events("request.finished")
        assert finished["reason"] == "gateway_override_denied"
    # A request that has not ended is none: the gateway must not have a whole one.
    assert at_gateway.seen("gateway.example") == []
    assert at_gateway.seen("api.openai.com") == []


NAMED_IN_UTF_7 = b'form-data; name="+AGEAcABpAF8AYgBhAHMAZQ-"'
TWO_READINGS = {
    "JSON and form": ("application/x-www-form-urlencoded", b'{"a":"&api_base=https://evil&"}'),
    "JSON and form, escaped": ("application/x-www-form-urlencoded", b'{"a":"&api%5Fbase=x&"}'),
    "extended name": (
        "multipart/form-data; boundary=b",
        b"--b\r\nContent-Disposition: form-data; name*0=api_; name*1=base\r\n\r\nx\r\n--b--\r\n",
    ),
    "JSON in a form": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{"api\\u005fbase":1}',
    ),
    "other letters": ("application/json", b'{"API_Base": "https://evil"}'),
    "in a list": ("application/json", b'[{"api_base": "https://evil"}]'),
}


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", list(TWO_READINGS))
def test_a_body_with_two_readings_never_arrives(at_gateway: Scene, how: str, framing: str) -> None:
    content_type, body = TWO_READINGS[how]
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: api.openai.com",
        ": ".join(bearer(at_gateway)),
        f"Content-Type: {content_type}",
    ]
    with at_gateway.tunnel("api.openai.com") as wire:
        if framing == "chunked":
            head.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            head.append(f"Content-Length: {len(body)}")
        answer = wire.request("\n".join(head), body)
    assert answer.reason == "gateway_override_denied"
    assert len(at_gateway.verdicts()) == 1
    if framing == "length":
        at_gateway.expect_denied(answer, "gateway_override_denied")
    assert at_gateway.seen("gateway.example") == []


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b; charset=utf-7",
        'multipart/form-data; boundary=b; charset="cp037"',
        "multipart/form-data; boundary=b; charset*0=utf-; charset*1=7",
        "application/json; charset=utf-7",
    ],
)
@pytest.mark.parametrize("name", ["Content-Type", "content_type"])
def test_a_charset_hides_nothing_from_the_look(
    at_gateway: Scene, name: str, content_type: str
) -> None:
    """Read as UTF-7, the field of this form is api_base."""
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/chat/completions",
        method="POST",
        headers=[bearer(at_gateway), (name, content_type)],
        body=b"--b\r\nContent-Disposition: %s\r\n\r\nx\r\n--b--\r\n" % NAMED_IN_UTF_7,
    )
    at_gateway.expect_denied(answer, "gateway_override_denied")


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "x"])
def test_a_compressed_body_hides_nothing_from_the_look(at_gateway: Scene, coding: str) -> None:
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/chat/completions",
        method="POST",
        headers=[bearer(at_gateway), ("Content-Encoding", coding)],
        body=gzip.compress(body_with("api_base")["plain"]),
    )
    at_gateway.expect_denied(answer, "gateway_override_denied")


@pytest.mark.attack("gateway override")
@pytest.mark.parametrize(
    "text", ["api_base", '{"api_base": 1}', "please set api_base=https://evil.example"]
)
def test_what_a_prompt_says_is_not_a_field(at_gateway: Scene, text: str) -> None:
    prompt = {"model": "x", "messages": [{"role": "user", "content": text}]}
    answer = at_gateway.request(
        "api.openai.com",
        "/v1/chat/completions",
        method="POST",
        headers=[bearer(at_gateway)],
        body=json.dumps(prompt).encode(),
    )
    assert answer.status == 200
    at_gateway.expect_allowed("gateway.example")


@pytest.mark.attack("gateway override")
def test_the_gateway_named_by_the_client_gets_the_same_treatment(at_gateway: Scene) -> None:
    answer = at_gateway.request("gateway.example", "/v1/models", headers=[bearer(at_gateway)])
    assert answer.status == 200
    (received,) = at_gateway.expect_allowed("gateway.example")
    assert OPENAI_KEY.encode() in received.raw_head
