"""The real LiteLLM behind a recorder, pretend providers beside it, and a sandbox to call from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import require
from tests.clients.model_apis import anthropic_api, gemini_api, openai_api
from tests.clients.sandbox import Sandbox, beside_sidecar
from tests.gateways.litellm import PYTHON, VIRTUAL_KEY, LiteLLM
from tests.gateways.relay import Relay
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

PROVIDER_KEYS = {
    "OPENAI_API_KEY": "sk-proj-of-the-provider-0123456789",
    "ANTHROPIC_API_KEY": "sk-ant-of-the-provider-0123456789",
    "GOOGLE_API_KEY": "AIza-of-the-provider-0123456789",
}
GATEWAY_KEYS = dict.fromkeys(PROVIDER_KEYS, VIRTUAL_KEY)
POLICY: dict[str, Any] = {
    "connections": {
        "openai-team": {"provider": "openai", "secret": {"env": "OPENAI_API_KEY"}},
        "anthropic-team": {"provider": "anthropic", "secret": {"env": "ANTHROPIC_API_KEY"}},
        "gemini-team": {"provider": "gemini", "secret": {"env": "GOOGLE_API_KEY"}},
    },
    "allow": [
        {"name": "gpt", "connection": "openai-team"},
        {"name": "claude", "connection": "anthropic-team"},
        {"name": "gemini", "connection": "gemini-team"},
    ],
}


@dataclass
class Scene:
    """Everything on loopback that takes part in one test."""

    proxy: Proxy
    sandbox: Sandbox
    gateway: Upstream
    """Stands before LiteLLM and keeps every byte that LiteLLM got."""
    providers: dict[str, Upstream]
    """By host."""

    def placeholders(self) -> list[str]:
        """Every placeholder that the agent holds."""
        return [self.proxy.placeholder(connection) for connection in POLICY["connections"]]


@pytest.fixture(scope="session")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteLLM]:
    """LiteLLM takes about ten seconds to start, so one serves every test of a process."""
    require("LiteLLM", PYTHON.exists(), "there is no .venv-litellm; run `make test-gateways`")
    with LiteLLM(tmp_path_factory.mktemp("litellm")) as running:
        yield running


@pytest.fixture
def gateway(litellm: LiteLLM, start_upstream: Callable[..., Upstream]) -> Upstream:
    """LiteLLM over plain HTTP, recorded."""
    return start_upstream("127.0.0.1", handler=Relay(litellm.port), tls=False)


@pytest.fixture
def tls_gateway(litellm: LiteLLM, start_upstream: Callable[..., Upstream]) -> Upstream:
    """LiteLLM as https://litellm.internal, recorded."""
    return start_upstream("litellm.internal", handler=Relay(litellm.port))


@pytest.fixture
def providers(start_upstream: Callable[..., Upstream]) -> dict[str, Upstream]:
    """The providers at their own names; each answers only to its own key."""
    apis = {
        "api.openai.com": openai_api(PROVIDER_KEYS["OPENAI_API_KEY"]),
        "api.anthropic.com": anthropic_api(PROVIDER_KEYS["ANTHROPIC_API_KEY"]),
        "generativelanguage.googleapis.com": gemini_api(PROVIDER_KEYS["GOOGLE_API_KEY"]),
    }
    for api in apis.values():
        api.go_on.set()
    return {host: start_upstream(host, handler=api) for host, api in apis.items()}


@pytest.fixture
def set_scene(
    start_proxy: Callable[..., Proxy], providers: dict[str, Upstream], tmp_path: Path
) -> Callable[..., Scene]:
    """Start the proxy: ``set_scene(gateway, GATEWAY_KEYS, section={…}, environ={…})``.

    ``section`` is the policy's ``gateway``; the rest of the policy is always the same.
    """

    def start(
        gateway: Upstream,
        keys: Mapping[str, str],
        *,
        section: dict[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Scene:
        policy = POLICY | ({"gateway": section} if section else {})
        upstreams = [*providers.values(), *([gateway] if gateway.tls else [])]
        proxy = start_proxy(policy, upstreams=upstreams, environ=dict(keys) | dict(environ or {}))
        return Scene(proxy, beside_sidecar(proxy, tmp_path / "home", keys), gateway, providers)

    return start
