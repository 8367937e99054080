"""Unmodified SDKs, holding placeholders, through Understudy and the real LiteLLM proxy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.gateways.conftest import GATEWAY_KEYS, PROVIDER_KEYS, Scene
from tests.gateways.litellm import PYTHON as OLDER_PYTHON
from tests.gateways.litellm import VIRTUAL_KEY
from tests.support.upstream import Received, Upstream

pytestmark = pytest.mark.gateway

CLIENTS = Path(__file__).parent / "clients"
CREDENTIAL_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
# What one hop says about itself, and the encoding, which Understudy chooses because it must be
# able to read the answer for reflected secrets.
HOP_HEADERS = {b"host", b"connection", b"accept-encoding"}


@dataclass(frozen=True)
class Sdk:
    """One SDK, how it calls, and what its requests look like."""

    name: str
    how: str
    host: str
    path: str
    variable: str
    base_url_variable: str
    header: str = "authorization"
    scheme: str = "Bearer "
    python: str | Path = sys.executable

    def __str__(self) -> str:
        older = "older-" if self.python == OLDER_PYTHON else ""
        return f"{older}{self.name}-{self.how}"

    @property
    def command(self) -> tuple[str | Path, ...]:
        return self.python, CLIENTS / f"ask_{self.name}.py", self.how

    @property
    def swapped(self) -> list[dict[str, str]]:
        return [{"secret": self.variable, "location": f"header:{self.header}"}]


def openai(
    how: str, path: str = "/v1/chat/completions", python: str | Path = sys.executable
) -> Sdk:
    variables = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
    return Sdk("openai", how, "api.openai.com", path, *variables, python=python)


def anthropic(how: str) -> Sdk:
    variables = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    return Sdk("anthropic", how, "api.anthropic.com", "/v1/messages", *variables)


def older_anthropic(how: str) -> Sdk:
    """The SDK before 2.0, which sends the same variable in another header."""
    variables = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    facts = ("anthropic", how, "api.anthropic.com", "/v1/messages")
    return Sdk(*facts, *variables, header="x-api-key", scheme="", python=OLDER_PYTHON)


SDKS = [
    openai("plain"),
    openai("stream"),
    openai("stream", python=OLDER_PYTHON),
    anthropic("plain"),
    anthropic("stream"),
    older_anthropic("plain"),
    older_anthropic("stream"),
]
RESPONSES = openai("responses", "/v1/responses")
every_sdk = pytest.mark.parametrize("sdk", SDKS, ids=str)


def credentials(received: Received) -> dict[str, list[str]]:
    """Every credential that a request carries, by header."""
    return {name: values for name in CREDENTIAL_HEADERS if (values := received.headers(name))}


def check_gateway_took_it(scene: Scene, sdk: Sdk, kind: str) -> None:
    """LiteLLM got its own key and nothing of the agent's; the providers got nothing at all."""
    [received] = scene.gateway.requests
    assert (received.method, received.target) == ("POST", sdk.path)
    assert credentials(received) == {sdk.header: [sdk.scheme + VIRTUAL_KEY]}
    for placeholder in scene.placeholders():
        assert placeholder.encode() not in scene.gateway.received
    assert [upstream.connections for upstream in scene.providers.values()] == [0, 0, 0]

    [decided] = scene.proxy.events("request.decided")
    [finished] = scene.proxy.wait_for_events("request.finished")
    assert (decided["verdict"], decided["reason"]) == ("allow", "allowed")
    assert (decided["http"]["host"], decided["http"]["path"]) == (sdk.host, sdk.path)
    assert decided["gateway"]["kind"] == kind
    assert decided["gateway"]["path"] == sdk.path
    assert decided["swapped"] == sdk.swapped
    assert (finished["request_id"], finished["status"]) == (decided["request_id"], 200)
    assert VIRTUAL_KEY.encode() not in scene.proxy.everything_written()


@pytest.mark.parametrize("sdk", [*SDKS, RESPONSES], ids=str)
def test_sdk_gets_litellms_answer_when_the_policy_names_it(
    sdk: Sdk, gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    url = f"http://{gateway.connect_to}"
    section = {"url": url, "kind": "litellm", "providers": ["openai", "anthropic"]}
    scene = set_scene(gateway, GATEWAY_KEYS, section=section)

    assert scene.sandbox.run(*sdk.command).stdout == "PONG"

    check_gateway_took_it(scene, sdk, "litellm")
    [decided] = scene.proxy.events("request.decided")
    place = {"scheme": "http", "host": "127.0.0.1", "port": gateway.port}
    assert decided["gateway"] == {"kind": "litellm", "path": sdk.path} | place


@every_sdk
def test_sdk_gets_litellms_answer_by_the_variable_alone(
    sdk: Sdk, gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    url = f"http://{gateway.connect_to}"
    scene = set_scene(gateway, GATEWAY_KEYS, environ={"UNDERSTUDY_LLM_GATEWAY_URL": url})

    assert scene.sandbox.run(*sdk.command).stdout == "PONG"

    check_gateway_took_it(scene, sdk, "generic")


@every_sdk
def test_sdk_goes_straight_to_the_provider_without_the_variable(
    sdk: Sdk, gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    scene = set_scene(gateway, PROVIDER_KEYS)

    assert scene.sandbox.run(*sdk.command).stdout == "PONG"

    [received] = scene.providers[sdk.host].requests
    assert received.target == sdk.path
    assert received.header("host") == sdk.host
    assert credentials(received) == {sdk.header: [sdk.scheme + PROVIDER_KEYS[sdk.variable]]}
    for placeholder in scene.placeholders():
        assert placeholder.encode() not in scene.providers[sdk.host].received
    assert gateway.connections == 0
    [decided] = scene.proxy.events("request.decided")
    assert "gateway" not in decided
    assert decided["swapped"] == sdk.swapped


@pytest.mark.parametrize("sdk", [openai("plain"), older_anthropic("stream")], ids=str)
def test_litellm_receives_what_the_sdk_would_have_sent_to_it_directly(
    sdk: Sdk, gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    url = f"http://{gateway.connect_to}"
    scene = set_scene(gateway, GATEWAY_KEYS, environ={"UNDERSTUDY_LLM_GATEWAY_URL": url})
    base_url = url + ("/v1" if sdk.name == "openai" else "")
    direct = {sdk.variable: VIRTUAL_KEY, sdk.base_url_variable: base_url}

    process = scene.sandbox.start(*sdk.command, environ=direct)
    assert process.communicate(timeout=60)[0] == "PONG"
    scene.sandbox.run(*sdk.command)

    by_itself, through_understudy = gateway.requests
    assert header_lines(through_understudy) == header_lines(by_itself)
    assert through_understudy.body == by_itself.body


def header_lines(received: Received) -> list[tuple[bytes, bytes]]:
    lines = received.raw_head.split(b"\r\n")[1:-2]
    pairs = [(name.lower(), value.strip()) for name, _, value in (x.partition(b":") for x in lines)]
    return sorted(pair for pair in pairs if pair[0] not in HOP_HEADERS)


@pytest.mark.parametrize("sdk", [openai("stream"), older_anthropic("plain")], ids=str)
@pytest.mark.parametrize("base_url", [False, True], ids=["provider-url", "gateway-url"])
def test_https_gateway_is_used_under_its_own_name(
    sdk: Sdk, base_url: bool, tls_gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    section = {
        "url": "https://litellm.internal",
        "kind": "litellm",
        "providers": ["openai", "anthropic"],
    }
    scene = set_scene(tls_gateway, GATEWAY_KEYS, section=section)
    path = "/v1" if sdk.name == "openai" else ""
    environ = {sdk.base_url_variable: f"https://litellm.internal{path}"} if base_url else {}

    assert scene.sandbox.run(*sdk.command, environ=environ).stdout == "PONG"

    [received] = tls_gateway.requests
    assert received.header("host") == "litellm.internal"
    assert credentials(received) == {sdk.header: [sdk.scheme + VIRTUAL_KEY]}
    assert tls_gateway.server_names == ["litellm.internal"]
    assert [upstream.connections for upstream in scene.providers.values()] == [0, 0, 0]


def test_gemini_sdk_reaches_litellm_under_its_gemini_path(
    gateway: Upstream, set_scene: Callable[..., Scene]
) -> None:
    section = {"url": f"http://{gateway.connect_to}", "kind": "litellm", "providers": ["gemini"]}
    scene = set_scene(gateway, GATEWAY_KEYS, section=section)

    ran = scene.sandbox.run(sys.executable, CLIENTS / "ask_gemini.py", "plain")

    assert ran.stdout == "PONG"
    [received] = gateway.requests
    assert received.target == "/gemini/v1beta/models/gemini-pretend:generateContent"
    assert credentials(received) == {"x-goog-api-key": [VIRTUAL_KEY]}
    [decided] = scene.proxy.events("request.decided")
    assert decided["http"]["path"] == "/v1beta/models/gemini-pretend:generateContent"
    assert decided["gateway"]["path"] == received.target
