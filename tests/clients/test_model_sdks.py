"""The LLM SDKs, unmodified, at their own default addresses: whole answers, streams, async."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.conftest import IN_BOTH
from tests.clients.model_apis import ModelApi, anthropic_api, gemini_api, openai_api

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.sandbox import Sandbox
    from tests.support.upstream import Upstream

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Sdk:
    """One SDK: what it reads, where it goes, and where it may put its key."""

    provider: str
    host: str
    variable: str
    api: Callable[[str], ModelApi]
    paths: tuple[str, str, str]
    """Of the whole answer, the stream, and the async client's answer."""
    locations: frozenset[str]

    @property
    def program(self) -> Path:
        return PROGRAMS / f"chat_{self.provider}.py"


CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
GENERATE = "/v1beta/models/gemini-pretend:generateContent"
GENERATE_STREAM = "/v1beta/models/gemini-pretend:streamGenerateContent"
OPENAI = Sdk(
    "openai",
    "api.openai.com",
    "OPENAI_API_KEY",
    openai_api,
    (CHAT, CHAT, CHAT),
    frozenset({"header:authorization"}),
)
ANTHROPIC = Sdk(
    "anthropic",
    "api.anthropic.com",
    "ANTHROPIC_API_KEY",
    anthropic_api,
    (MESSAGES, MESSAGES, MESSAGES),
    # x-api-key before 2.0 of the SDK, a bearer token from 2.0.
    frozenset({"header:x-api-key", "header:authorization"}),
)
GEMINI = Sdk(
    "gemini",
    "generativelanguage.googleapis.com",
    "GEMINI_API_KEY",
    gemini_api,
    (GENERATE, GENERATE_STREAM, GENERATE),
    frozenset({"header:x-goog-api-key"}),
)


def policy(sdk: Sdk, **rule: Any) -> dict[str, Any]:
    return {
        "connections": {"model": {"provider": sdk.provider, "secret": {"env": sdk.variable}}},
        "allow": [{"name": "model", "connection": "model"} | rule],
    }


@IN_BOTH
@pytest.mark.parametrize("sdk", [OPENAI, ANTHROPIC, GEMINI], ids=lambda sdk: sdk.provider)
def test_sdk_works_unchanged(
    sdk: Sdk,
    enter_sandbox: Callable[..., Sandbox],
    start_upstream: Callable[..., Upstream],
    secret: str,
) -> None:
    api = sdk.api(secret)
    upstream = start_upstream(sdk.host, handler=api)
    sandbox = enter_sandbox(policy(sdk), [upstream], {sdk.variable: secret})

    process = sandbox.start(sys.executable, sdk.program)
    assert process.stdout is not None
    # The stream's first part is here while the upstream still holds the second one back.
    read = "".join(process.stdout.readline() for _ in range(2))
    assert read.split() == ["PONG", "PO"], process.communicate()
    api.go_on.set()
    ran = sandbox.finish(process, read=read)

    assert ran.stdout.split() == ["PONG", "PO", "NG", "PONG"]
    assert upstream.received.count(secret.encode()) == len(upstream.requests) == 3
    assert ran.environ[sdk.variable].encode() not in upstream.received
    exchanges = sandbox.exchanges()
    assert [(e.method, e.path, e.status) for e in exchanges] == [
        ("POST", path, 200) for path in sdk.paths
    ]
    for exchange in exchanges:
        ((name, location),) = exchange.swapped
        assert name == sdk.variable
        assert location in sdk.locations
    assert sandbox.denials() == []


@pytest.mark.parametrize("sdk", [OPENAI, ANTHROPIC, GEMINI], ids=lambda sdk: sdk.provider)
def test_sdk_prints_the_denial_and_does_not_retry(
    sdk: Sdk,
    enter_sandbox: Callable[..., Sandbox],
    start_upstream: Callable[..., Upstream],
    secret: str,
) -> None:
    upstream = start_upstream(sdk.host)
    models_only = policy(sdk, methods=["GET"])
    sandbox = enter_sandbox(models_only, [upstream], {sdk.variable: secret})

    ran = sandbox.run(sys.executable, sdk.program, good=False)

    assert "The policy does not allow POST here." in ran.stderr
    assert sandbox.denials() == ["method_not_allowed"]
    assert upstream.requests == []
