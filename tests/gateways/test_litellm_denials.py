"""What an agent may not do at the real LiteLLM proxy, and what passes through untouched."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.gateways.conftest import GATEWAY_KEYS, Scene
from tests.gateways.test_litellm_sdks import CLIENTS
from tests.support.client import Answer
from tests.support.upstream import Upstream

pytestmark = pytest.mark.gateway

CHAT = "/v1/chat/completions"
QUESTION = {"model": "gpt-pretend", "messages": [{"role": "user", "content": "ping"}]}


@pytest.fixture
def scene(tls_gateway: Upstream, set_scene: Callable[..., Scene]) -> Scene:
    """All providers go to https://litellm.internal."""
    section = {
        "url": "https://litellm.internal",
        "kind": "litellm",
        "providers": ["openai", "anthropic", "gemini"],
    }
    return set_scene(tls_gateway, GATEWAY_KEYS, section=section)


def ask(
    scene: Scene,
    path: str = CHAT,
    *,
    body: bytes | dict[str, Any] = QUESTION,
    headers: dict[str, str] | None = None,
    host: str = "api.openai.com",
    method: str = "POST",
) -> Answer:
    """One request with the placeholder that belongs to OpenAI's connection."""
    own = {"Authorization": f"Bearer {scene.proxy.placeholder('openai-team')}"}
    if method == "GET":
        body = b""
    elif isinstance(body, dict):
        body = json.dumps(body).encode()
    typed = {"Content-Type": "application/json"} if body else {}
    return scene.proxy.request(method, host, path, headers=own | typed | (headers or {}), body=body)


def check_refused(scene: Scene, answer: Answer, status: int, reason: str) -> None:
    assert (answer.status, answer.reason) == (status, reason)
    assert scene.gateway.requests == []
    assert bytes(scene.gateway.received) == b""
    [decided] = scene.proxy.events("request.decided")
    assert (decided["verdict"], decided["reason"]) == ("deny", reason)


@pytest.mark.parametrize("host", ["api.openai.com", "litellm.internal"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/key/generate"),
        ("POST", "/user/new"),
        ("GET", "/key/info"),
        ("GET", "/model/info"),
        ("GET", "/"),
        ("POST", "/openai/v1/chat/completions"),
        ("DELETE", "/v1/models/gpt-pretend"),
    ],
)
def test_only_model_routes_of_litellm_are_open(
    scene: Scene, method: str, path: str, host: str
) -> None:
    answer = ask(scene, path, method=method, host=host)
    check_refused(scene, answer, 403, "gateway_route_denied")


def test_a_path_that_climbs_out_of_a_model_route_is_refused(scene: Scene) -> None:
    answer = ask(scene, "/v1/models/..%2f..%2fkey%2fgenerate", method="GET")
    check_refused(scene, answer, 400, "path_not_canonical")


@pytest.mark.parametrize("name", ["x-litellm-api-base", "X-LiteLLM-Timeout", "x_litellm_api_base"])
def test_litellms_control_headers_are_refused(scene: Scene, name: str) -> None:
    answer = ask(scene, headers={name: "https://evil.example"})
    check_refused(scene, answer, 403, "gateway_override_denied")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(QUESTION | {"api_base": "https://evil.example"}).encode(),
        json.dumps(QUESTION | {"user_config": {"model_list": []}}).encode(),
        rb'{"model":"gpt-pretend","messages":[],"api\u005fbase":"https://evil.example"}',
        rb'{"api_base":"https://evil.example","api_base":null,"model":"gpt-pretend","messages":[]}',
    ],
    ids=["api_base", "user_config", "escaped-key", "duplicate-key"],
)
def test_a_body_cannot_lead_litellm_elsewhere(scene: Scene, body: bytes) -> None:
    check_refused(scene, ask(scene, body=body), 403, "gateway_override_denied")


def test_a_field_in_a_body_too_large_to_keep_never_completes_at_litellm(scene: Scene) -> None:
    padding = [{"role": "user", "content": "x" * (2 << 20)}]
    body = QUESTION | {"messages": padding, "api_base": "https://evil.example"}
    with contextlib.suppress(ConnectionError):
        answer = ask(scene, body=body)
        assert (answer.status, answer.reason) == (403, "gateway_override_denied")
    assert scene.gateway.requests == []
    assert b"evil.example" not in scene.gateway.received


def test_a_field_in_a_chunked_body_is_refused(scene: Scene) -> None:
    body = json.dumps(QUESTION | {"api_base": "https://evil.example"}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    placeholder = scene.proxy.placeholder("openai-team")
    head = f"""
        POST {CHAT} HTTP/1.1
        Host: api.openai.com
        Authorization: Bearer {placeholder}
        Content-Type: application/json
        Transfer-Encoding: chunked
    """
    with scene.proxy.tunnel("api.openai.com") as wire, contextlib.suppress(ConnectionError):
        answer = wire.request(inspect.cleandoc(head), chunks + b"0\r\n\r\n")
        assert (answer.status, answer.reason) == (403, "gateway_override_denied")
    assert scene.gateway.requests == []
    assert b"evil.example" not in scene.gateway.received


def test_the_sdk_prints_why_an_override_is_refused(scene: Scene) -> None:
    ran = scene.sandbox.run(sys.executable, CLIENTS / "ask_openai.py", "override")
    assert ran.stdout.startswith("403 ")
    assert "gateway" in ran.stdout
    assert scene.gateway.requests == []


def test_a_rate_limit_reaches_the_client_as_litellm_wrote_it(scene: Scene) -> None:
    answer = ask(scene, body=QUESTION | {"model": "gpt-limited"})
    assert answer.status == 429
    assert answer.json["error"]["code"] == "429"
    assert len(scene.gateway.requests) == 1


def test_litellms_model_list_passes(scene: Scene) -> None:
    answer = ask(scene, "/v1/models", method="GET")
    assert "gpt-pretend" in {model["id"] for model in answer.json["data"]}
