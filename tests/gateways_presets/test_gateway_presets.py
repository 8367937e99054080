"""Adding a gateway is one YAML file and its rows here."""

from __future__ import annotations

from importlib.resources import files

import pytest

from understudy.gateways.apply import Routed, provider_path, refuse_body, route
from understudy.gateways.preset import gateway_presets, read_preset
from understudy.policy.model import Gateway
from understudy.providers.preset import provider_presets
from understudy.reasons import Reason

HEADERS = ((b"Host", b"api.example"), (b"Authorization", b"Bearer x"))
CHAT = b"/v1/chat/completions"
GENERATE = b"/v1beta/models/gemini-2.5-pro:generateContent"


def gateway(kind: str, prefix: str = "", **changes: object) -> Gateway:
    settings = {"account": "acc", "gateway": "gw"} if kind == "cloudflare" else {}
    fields: dict[str, object] = {
        "preset": gateway_presets()[kind],
        "scheme": "https",
        "host": "gw.example",
        "port": 443,
        "path_prefix": prefix,
        "providers": frozenset(gateway_presets()[kind].providers),
        "settings": settings,
    }
    return Gateway(**(fields | changes))  # type: ignore[arg-type] # fields by name


def target_of(routed: Routed | Reason) -> bytes:
    assert isinstance(routed, Routed), routed
    return routed.target


# kind, provider, method, path as the provider's client writes it, path at the gateway
ROWS = [
    ("litellm", "openai", "POST", CHAT, CHAT),
    ("litellm", "openai", "POST", b"/v1/responses", b"/v1/responses"),
    (
        "litellm",
        "openai",
        "GET",
        b"/v1/responses/resp_1?stream=true",
        b"/v1/responses/resp_1?stream=true",
    ),
    ("litellm", "openai", "POST", b"/v1/embeddings", b"/v1/embeddings"),
    ("litellm", "openai", "GET", b"/v1/models", b"/v1/models"),
    ("litellm", "anthropic", "POST", b"/v1/messages?beta=true", b"/v1/messages?beta=true"),
    ("litellm", "anthropic", "POST", b"/v1/messages/count_tokens", b"/v1/messages/count_tokens"),
    ("litellm", "gemini", "POST", GENERATE, b"/gemini" + GENERATE),
    ("litellm", "groq", "POST", b"/openai/v1/chat/completions", CHAT),
    ("litellm", "openrouter", "POST", b"/api/v1/chat/completions", CHAT),
    ("portkey", "openai", "POST", CHAT, CHAT),
    ("portkey", "anthropic", "POST", b"/v1/messages", b"/v1/messages"),
    ("cloudflare", "openai", "POST", CHAT, b"/v1/acc/gw/openai/chat/completions"),
    ("cloudflare", "anthropic", "POST", b"/v1/messages", b"/v1/acc/gw/anthropic/v1/messages"),
    ("cloudflare", "gemini", "POST", GENERATE, b"/v1/acc/gw/google-ai-studio" + GENERATE),
    (
        "cloudflare",
        "groq",
        "POST",
        b"/openai/v1/chat/completions",
        b"/v1/acc/gw/groq/chat/completions",
    ),
    ("openrouter", "openai", "POST", CHAT, b"/api" + CHAT),
    ("openrouter", "anthropic", "POST", b"/v1/messages", b"/api/v1/messages"),
    ("openrouter", "openrouter", "POST", b"/api/v1/chat/completions", b"/api/v1/chat/completions"),
    ("generic", "openai", "POST", CHAT, CHAT),
    ("generic", "anthropic", "POST", b"/v1/messages", b"/v1/messages"),
    ("generic", "gemini", "POST", GENERATE, GENERATE),
]
IDS = [f"{row[0]}-{row[1]}-{row[3].decode()}" for row in ROWS]


def test_there_is_one_file_for_each_kind() -> None:
    found = {e.name for e in files("understudy.gateways").iterdir() if e.name.endswith(".yaml")}
    assert found == {f"{kind}.yaml" for kind in gateway_presets()}
    assert {row[0] for row in ROWS} == set(gateway_presets())


@pytest.mark.parametrize(("kind", "provider", "method", "sent", "there"), ROWS, ids=IDS)
def test_a_providers_request_is_written_as_the_gateway_wants_it(
    kind: str, provider: str, method: str, sent: bytes, there: bytes
) -> None:
    routed = route(gateway(kind), provider, method, sent, HEADERS)
    assert isinstance(routed, Routed)
    assert routed.target == there
    assert (routed.scheme, routed.host, routed.port) == ("https", "gw.example", 443)


@pytest.mark.parametrize(("kind", "provider", "method", "sent", "there"), ROWS, ids=IDS)
def test_a_request_straight_to_the_gateway_is_treated_the_same(
    kind: str, provider: str, method: str, sent: bytes, there: bytes
) -> None:
    # As an SDK with the gateway as its base URL writes it, or with the provider's own path.
    path = sent.partition(b"?")[0].decode()
    for written in (there, sent):
        routed = route(gateway(kind), provider, method, written, HEADERS, host_is_gateway=True)
        assert target_of(routed) == there
        shaped = provider_path(gateway(kind), provider, True, written.partition(b"?")[0].decode())
        assert shaped == path


def test_the_path_of_the_gateways_url_stands_in_front() -> None:
    behind = gateway("generic", "/llm/v2")
    assert target_of(route(behind, "openai", "POST", CHAT, HEADERS)) == b"/llm/v2" + CHAT
    whole = gateway("cloudflare", "/v1/a/b", settings={})
    assert target_of(route(whole, "openai", "POST", CHAT, HEADERS)).startswith(b"/v1/a/b/openai/")


def test_a_prefix_of_the_gateway_means_nothing_on_the_providers_host() -> None:
    # A rule judged /gemini/v1beta/…; nothing else may be forwarded.
    sent = b"/gemini" + GENERATE
    assert route(gateway("litellm"), "gemini", "POST", sent, HEADERS) is Reason.GATEWAY_ROUTE_DENIED
    assert provider_path(gateway("litellm"), "gemini", False, sent.decode()) == sent.decode()


@pytest.mark.parametrize("host_is_gateway", [True, False])
@pytest.mark.parametrize("kind", sorted(gateway_presets()))
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", b"/key/generate"),
        ("GET", b"/key/list"),
        ("POST", b"/user/new"),
        ("GET", b"/model/info"),
        ("POST", b"/config/update"),
        ("GET", b"/"),
        ("GET", b"/health"),
        ("GET", b"/v1/files"),
        ("GET", b"/v1/files/abc/content"),
        ("POST", b"/v1/batches"),
        ("DELETE", b"/v1/models/ft:gpt"),
        ("GET", b"/v1/chat/completions"),
        ("PUT", CHAT),
        ("POST", CHAT + b"/"),
        ("POST", b"/v1/chat/completions/../../../key/generate"),
        ("POST", b"/v1/messages/%2e%2e/%2e%2e/key/generate"),
        ("POST", b"/v1/messages%2f..%2f..%2fkey%2fgenerate"),
        ("POST", b"/v1/messages%252f..%252fkey"),
        ("GET", b"/v1/models/..%2f..%2fkey%2flist"),
        ("GET", b"/v1/models/a%2fb"),
        ("GET", b"/v1/models/..;/..;/key/list"),
        ("GET", b"/v1/models/a;/../key"),
        ("POST", b"//v1/messages"),
        ("POST", b"/v1//key/generate"),
        ("POST", b"/v1/messages\\..\\key"),
        ("POST", b"/V1/MESSAGES"),
        ("POST", b"/v1/messages\xff"),
        ("POST", b"/v1/models/x:generateContent/../../key"),
        ("POST", b"/v1beta/models/x:deleteEverything"),
        ("POST", b"/gemini/key/generate"),
        ("POST", b"/api/v1/keys"),
        ("GET", b"/v1/acc/gw/logs"),
        ("POST", b"v1/messages"),
        ("POST", b""),
    ],
)
def test_nothing_but_the_model_api_is_open(
    kind: str, method: str, target: bytes, host_is_gateway: bool
) -> None:
    for provider in gateway_presets()[kind].providers:
        answer = route(
            gateway(kind), provider, method, target, HEADERS, host_is_gateway=host_is_gateway
        )
        assert answer is Reason.GATEWAY_ROUTE_DENIED, provider


def test_a_provider_that_the_gateway_does_not_have_is_refused() -> None:
    assert route(gateway("openrouter"), "gemini", "POST", GENERATE, ()) is (
        Reason.GATEWAY_ROUTE_DENIED
    )
    assert provider_path(gateway("openrouter"), "gemini", True, GENERATE.decode()) is None
    assert provider_path(gateway("litellm"), "openai", True, "/key/generate") is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("portkey", b"x-portkey-custom-host"),
        ("portkey", b"X-Portkey-Config"),
        ("portkey", b"x_portkey_config"),
        ("portkey", b"x-portkey_virtual-key"),
        ("portkey", b"x_portkey_api_key"),
        ("portkey", b"x-portkey-forward-headers"),
        ("litellm", b"x-litellm-api-key"),
        ("litellm", b"X-LiteLLM-Disable-Callbacks"),
        ("litellm", b"langfuse_host"),
        ("cloudflare", b"cf-aig-custom-provider"),
        ("cloudflare", b"CF_AIG_Authorization"),
        ("generic", b"x-bf-vk"),
        ("generic", b"x_ai_eg_model"),
        ("generic", b"x-portkey-custom-host"),
        ("openrouter", b"x-http-method-override"),
        ("generic", b"X_HTTP_Method"),
        ("portkey", b"X-Method-Override"),
        ("cloudflare", b"x-original-uri"),
        ("generic", b"X-Original-URL"),
        ("litellm", b"X_Rewrite_Url"),
    ],
)
def test_a_control_header_from_the_client_is_refused(kind: str, name: bytes) -> None:
    headers = (*HEADERS, (name, b"x"))
    answer = route(gateway(kind), "openai", "POST", CHAT, headers)
    assert answer is Reason.GATEWAY_OVERRIDE_DENIED


def test_headers_that_only_label_a_request_stay_behind() -> None:
    headers = (*HEADERS, (b"X-Portkey-Trace-Id", b"1"), (b"x-stainless-lang", b"python"))
    routed = route(gateway("portkey"), "openai", "POST", CHAT, headers)
    assert isinstance(routed, Routed)
    assert routed.headers_to_drop == {b"X-Portkey-Trace-Id"}


@pytest.mark.parametrize(
    "name",
    [
        b"anthropic-version",
        b"anthropic-beta",
        b"x-stainless-retry-count",
        b"openai-organization",
        b"openai-project",
        b"user-agent",
        b"x-goog-api-client",
        b"x-request-id",
    ],
)
@pytest.mark.parametrize("kind", sorted(gateway_presets()))
def test_what_sdks_send_passes(kind: str, name: bytes) -> None:
    routed = route(gateway(kind), "openai", "POST", CHAT, (*HEADERS, (name, b"x")))
    assert isinstance(routed, Routed)
    assert not routed.headers_to_drop


@pytest.mark.parametrize(
    "query",
    [
        b"api_base=https://evil.example",
        b"a=1&base_url=x",
        b"%61pi_base=x",
        b"api_base[]=x",
        b"x-litellm-api-key=x",
        b"API_Base=x",
        b"a=1;api_base=x",
        b"extra_body[api_base]=x",
        b"extra_body.api_base=x",
        b"x.litellm.tags=x",
        b"_method=DELETE",
        b"$httpMethod=POST",
    ],
)
def test_a_query_that_steers_the_gateway_is_refused(query: bytes) -> None:
    answer = route(gateway("litellm"), "openai", "POST", CHAT + b"?" + query, HEADERS)
    assert answer is Reason.GATEWAY_OVERRIDE_DENIED


def test_a_compressed_body_that_cannot_be_looked_at_is_refused() -> None:
    headers = (*HEADERS, (b"Content-Encoding", b"gzip"))
    answer = route(gateway("litellm"), "openai", "POST", CHAT, headers)
    assert answer is Reason.GATEWAY_OVERRIDE_DENIED
    assert isinstance(route(gateway("openrouter"), "openai", "POST", CHAT, headers), Routed)
    plain = (*HEADERS, (b"Content-Encoding", b" identity"))
    assert isinstance(route(gateway("litellm"), "openai", "POST", CHAT, plain), Routed)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json; charset=utf-7",
        b'multipart/form-data; boundary=b; charset="cp037"',
        b"multipart/form-data; CHARSET = utf-16; boundary=b",
        b"multipart/form-data; boundary=b; charset*=us-ascii''utf-7",
        b"multipart/form-data; boundary=b; charset*0=utf-; charset*1=7",
        b"text/plain; charset=utf-8; charset=utf-7",
    ],
)
def test_a_charset_that_hides_names_is_refused(content_type: bytes) -> None:
    headers = (*HEADERS, (b"content_type", content_type))
    answer = route(gateway("litellm"), "openai", "POST", CHAT, headers)
    assert answer is Reason.GATEWAY_OVERRIDE_DENIED
    assert isinstance(route(gateway("openrouter"), "openai", "POST", CHAT, headers), Routed)


@pytest.mark.parametrize(
    ("content_type", "is_form"),
    [
        (b"application/json", False),
        (b"application/json; charset=utf-8", False),
        (b'application/json;charset="UTF-8"', False),
        (b"audio/wav", False),
        (b"application/x-www-form-urlencoded; charset=ISO-8859-1", True),
        (b"multipart/form-data; boundary=----charset", True),
        (b"Multipart/Related; boundary=b", True),
    ],
)
def test_a_body_is_read_as_its_type_says(content_type: bytes, is_form: bool) -> None:
    headers = (*HEADERS, (b"Content-Type", content_type))
    routed = route(gateway("litellm"), "openai", "POST", CHAT, headers)
    assert isinstance(routed, Routed)
    assert routed.body_is_form is is_form


def test_the_gateways_own_place_for_the_credential_is_known() -> None:
    carriers = {
        kind: preset.carrier.label if preset.carrier else None
        for kind, preset in gateway_presets().items()
    }
    assert carriers == {
        "cloudflare": "header:cf-aig-authorization",
        "generic": None,
        "litellm": None,
        "openrouter": "header:authorization",
        "portkey": "header:x-portkey-api-key",
    }


def test_a_client_made_for_the_gateway_may_use_its_place() -> None:
    headers = ((b"X-Portkey-Api-Key", b"placeholder"),)
    assert isinstance(route(gateway("portkey"), "openai", "POST", CHAT, headers), Routed)


def test_the_operators_headers_come_before_the_presets() -> None:
    plain = route(gateway("portkey"), "anthropic", "POST", b"/v1/messages", ())
    assert isinstance(plain, Routed)
    assert plain.headers_to_set == (("x-portkey-provider", "anthropic"),)
    team = gateway("portkey", headers=(("x-team", "a"),))
    routed = route(team, "openai", "POST", CHAT, ())
    assert isinstance(routed, Routed)
    assert routed.headers_to_set == (("x-portkey-provider", "openai"), ("x-team", "a"))
    config = gateway("portkey", headers=(("X-Portkey-Config", "pc-1"),))
    routed = route(config, "openai", "POST", CHAT, ())
    assert isinstance(routed, Routed)
    assert routed.headers_to_set == (("X-Portkey-Config", "pc-1"),)


FIELDS = frozenset({"api_base", "api_key", "base_url"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"api_base": "https://evil.example"}',
        b'{"model": "m", "api_base": null}',
        b'{"api_base": 1, "api_base": 2}',
        rb'{"api\u005fbase": 1}',
        rb'{"\u0061pi_base": 1}',
        b'  \r\n{"base_url": 1}',
        b'{"metadata": {"api_base": 1}}',
        rb'{"metadata": "{\"api_base\": 1}"}',
        b'{"extra_body": {"a": 1, "api_key": 2}}',
        '{"api_base": 1}'.encode("utf-16"),
        '{"api_base": 1}'.encode("utf-16-le"),
        '{"api_base": 1}'.encode("utf-32"),
        '{"api_base": 1}'.encode("utf-8-sig"),
        b'{"api_base": 1',
        b'{"api_base": 1} trailing',
        b"{'api_base': 1}",
        b'{"a": 1,}',
        b'{"a": "\xff"}',
        b'{"a": ' + b"[" * 200_000,
        b"api_base=https%3A%2F%2Fevil.example&model=m",
        b"model=m&%61pi_base=x",
        b"metadata[api_base]=x",
        b"api_base%41=x",
        b"\x00\x01%61pi_base=x",
        b'--x\r\nContent-Disposition: form-data; name="api_base"\r\n\r\nhttps://evil\r\n--x--',
        b"--x\r\nContent-Disposition: form-data; name=api_base\r\n\r\n\x00\x01\r\n--x--",
    ],
    ids=range(26),
)
def test_a_body_that_steers_the_gateway_is_refused(body: bytes) -> None:
    assert refuse_body(FIELDS, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{}",
        b'{"model": "m", "messages": [{"role": "user", "content": "what is api_base?"}]}',
        b'{"tools": [{"input_schema": {"properties": {"base_url": {"type": "string"}}}}]}',
        b'{"api_bases": 1, "xapi_base": 2}',
        b'{"input": "{ not json"}',
        b'{"input": "{\\"a\\": 1}"}',
        b"[]",
        b'"api_base"',
        b"\x00\x01\x02RIFF",
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--',
    ],
)
def test_what_models_are_asked_passes(body: bytes) -> None:
    assert not refuse_body(FIELDS, body)


def test_no_field_to_refuse_means_no_look_at_the_body() -> None:
    assert not refuse_body(frozenset(), b'{"api_base": 1}')


def test_generic_and_litellm_refuse_the_known_holes() -> None:
    for kind in ("litellm", "generic", "portkey"):
        wanted = {"api_base", "base_url", "api_key", "user_config", "custom_llm_provider"}
        assert wanted <= gateway_presets()[kind].refuse_fields


def test_a_gateway_that_is_not_known_is_asked_nothing_that_a_known_one_obeys() -> None:
    generic = gateway_presets()["generic"]
    for preset in gateway_presets().values():
        assert preset.refuse_fields <= generic.refuse_fields
        assert set(preset.control_prefixes) <= set(generic.control_prefixes)


def test_generic_stands_in_for_every_model_provider() -> None:
    for name, provider in provider_presets().items():
        assert gateway_presets()["generic"].supports(name) == (provider.kind == "llm")


@pytest.mark.parametrize(
    "change",
    [
        "surprise: 1",
        "providers: {nobody: {add: /x}}",
        "providers: {openai: {add: x}}",
        "providers: {openai: {add: /x/}}",
        "providers: {openai: {routes: [nothing]}}",
        "carrier: {cookie: x}",
        "control_prefixes: [X-Upper-]",
        "control_prefixes: [x_under_]",
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_an_error(change: str) -> None:
    read_preset("x", "title: X\n")
    with pytest.raises(ValueError, match=r"\w"):
        read_preset("x", f"title: X\n{change}\n")
