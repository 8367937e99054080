"""Every way in which a provider takes a key is closed to a key of the agent's own."""

from __future__ import annotations

import base64

import pytest

from understudy.credentials.carriers import Carrier, Head, add_credential
from understudy.credentials.judge import inspect, judge
from understudy.credentials.placeholders import Placeholders
from understudy.policy.hosts import HostPattern
from understudy.policy.model import Connection, SecretReference, Verdict
from understudy.providers.preset import provider_presets
from understudy.reasons import Reason

OWN = "own-key-of-the-agent-0123456789abcdef"
PLACEHOLDERS = Placeholders({"team": "placeholder-of-the-team-0123456789"})


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


BEARER = ("Authorization", f"Bearer {OWN}")
API_KEY = ("x-api-key", OWN)
# Headers and queries from which the provider's servers, or those in front of them, take a key.
WAYS: dict[str, list[tuple[str, str] | str]] = {
    "anthropic": [BEARER, API_KEY],
    "azure-openai": [
        BEARER,
        ("api-key", OWN),
        ("Ocp-Apim-Subscription-Key", OWN),
        f"api-key={OWN}",
        f"subscription-key={OWN}",
        f"Ocp-Apim-Subscription-Key={OWN}",
        f"Authorization=bearer%20{OWN}",
    ],
    "cohere": [BEARER],
    "deepseek": [BEARER, API_KEY],
    "gemini": [
        BEARER,
        ("x-goog-api-key", OWN),
        ("X-Goog-Iam-Authorization-Token", OWN),
        f"key={OWN}",
        f"access_token={OWN}",
        f"oauth_token={OWN}",
        f"bearer_token={OWN}",
        f"$httpHeaders=Authorization:Bearer%20{OWN}",
        f"%24httpHeaders=x-goog-api-key%3A{OWN}",
        f"alt=sse&KEY={OWN}",
    ],
    "github": [
        BEARER,
        ("Authorization", f"token {OWN}"),
        ("Authorization", basic(OWN, "x-oauth-basic")),
        ("Authorization", basic("x-access-token", OWN)),
        f"access_token={OWN}",
        f"client_id=x&client_secret={OWN}",
        f"token={OWN}",
    ],
    "groq": [BEARER],
    "huggingface": [BEARER, ("Authorization", basic("user", OWN)), f"token={OWN}"],
    "mistral": [BEARER, API_KEY],
    "npm-registry": [
        BEARER,
        ("Authorization", basic("user", OWN)),
        ("X-JFrog-Art-Api", OWN),
        ("X-NuGet-ApiKey", OWN),
        ("Private-Token", OWN),
        ("Job-Token", OWN),
    ],
    "openai": [
        BEARER,
        ("api-key", OWN),
        ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{OWN}"),
    ],
    "openrouter": [BEARER, API_KEY],
    "python-index": [
        BEARER,
        ("Authorization", basic("__token__", OWN)),
        ("X-Devpi-Auth", OWN),
        ("X-JFrog-Art-Api", OWN),
        ("Deploy-Token", OWN),
        f"private_token={OWN}",
    ],
    "xai": [BEARER, API_KEY],
}


def test_there_are_rows_for_every_provider() -> None:
    assert WAYS.keys() == provider_presets().keys()


@pytest.mark.parametrize(
    ("provider", "way"), [(name, way) for name, ways in WAYS.items() for way in ways], ids=str
)
def test_no_key_of_the_agents_reaches_a_provider(provider: str, way: tuple[str, str] | str) -> None:
    preset = provider_presets()[provider]
    team = Connection(
        name="team",
        provider=provider,
        hosts=(HostPattern("api.example"),),
        carriers=preset.carriers,
        secret=SecretReference("env", "KEY"),
        credential_headers=frozenset(
            c.header.decode() for c in (*preset.carriers, *preset.optional_carriers) if c.header
        ),
        credential_queries=frozenset(c.name for c in preset.optional_carriers if c.name),
    )
    own = Head((), f"/v1?{way}".encode())
    if isinstance(way, tuple):
        own = Head(((way[0].encode(), way[1].encode()),), b"/v1")
    assert decide(own, team) is Reason.FOREIGN_CREDENTIAL
    for carrier in preset.carriers:
        both = with_placeholder(own, carrier)
        assert decide(both, team) is Reason.AMBIGUOUS_CREDENTIAL
        assert decide(Head(both.headers[::-1], both.target), team) is Reason.AMBIGUOUS_CREDENTIAL


def with_placeholder(head: Head, carrier: Carrier) -> Head:
    return add_credential(head, carrier, PLACEHOLDERS["team"].encode())


def decide(head: Head, team: Connection) -> object:
    presented = inspect(head, PLACEHOLDERS, {"team": team})
    verdict = Verdict(allow=True, reason=Reason.ALLOWED, rule="rule", connection=team)
    return judge(presented, verdict=verdict, bound=(team,))
