"""The LLM SDKs, unmodified, at their own default addresses, whole answers and streams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.model_apis import ModelApi, anthropic_api, gemini_api, openai_api

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.sandbox import Sandbox
    from tests.support.upstream import Upstream

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def ask(
    enter_sandbox: Callable[..., Sandbox], start_upstream: Callable[..., Upstream], secret: str
) -> Callable[..., None]:
    """Run a provider's SDK and check both sides; ``rest`` is what it prints after the stream."""

    def run(
        provider: str,
        *,
        host: str,
        variable: str,
        api: Callable[[str], ModelApi],
        paths: list[str],
        locations: set[str],
        rest: tuple[str, ...] = (),
    ) -> None:
        handler = api(secret)
        upstream = start_upstream(host, handler=handler)
        policy = {
            "connections": {"model": {"provider": provider, "secret": {"env": variable}}},
            "allow": [{"name": "model", "connection": "model"}],
        }
        sandbox = enter_sandbox(policy, [upstream], {variable: secret})

        process = sandbox.start(sys.executable, PROGRAMS / f"chat_{provider}.py")
        assert process.stdout is not None
        # The stream's first part is here while the upstream still holds the second one back.
        read = "".join(process.stdout.readline() for _ in range(2))
        handler.go_on.set()
        ran = sandbox.finish(process, read=read)

        assert ran.stdout.split() == ["PONG", "PO", "NG", *rest]
        assert upstream.received.count(secret.encode()) == len(paths)
        assert ran.environ[variable].encode() not in upstream.received
        exchanges = sandbox.exchanges()
        assert [(e.method, e.path, e.status) for e in exchanges] == [
            ("POST", path, 200) for path in paths
        ]
        for exchange in exchanges:
            ((name, location),) = exchange.swapped
            assert name == variable
            assert location in locations
        assert sandbox.denials() == []

    return run


def test_openai_sdk_works_unchanged(ask: Callable[..., None]) -> None:
    ask(
        "openai",
        host="api.openai.com",
        variable="OPENAI_API_KEY",
        api=openai_api,
        paths=["/v1/chat/completions"] * 2,
        locations={"header:authorization"},
    )


def test_anthropic_sdk_works_unchanged(ask: Callable[..., None]) -> None:
    ask(
        "anthropic",
        host="api.anthropic.com",
        variable="ANTHROPIC_API_KEY",
        api=anthropic_api,
        paths=["/v1/messages"] * 2,
        locations={"header:x-api-key", "header:authorization"},
    )


def test_google_genai_sdk_works_unchanged(ask: Callable[..., None]) -> None:
    model = "/v1beta/models/gemini-pretend"
    verbs = ["generateContent", "streamGenerateContent", "generateContent"]
    ask(
        "gemini",
        host="generativelanguage.googleapis.com",
        variable="GEMINI_API_KEY",
        api=gemini_api,
        paths=[f"{model}:{verb}" for verb in verbs],
        locations={"header:x-goog-api-key"},
        rest=("PONG",),
    )
