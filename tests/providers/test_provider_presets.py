"""Adding a provider is one YAML file and one row here."""

from __future__ import annotations

from importlib.resources import files

import pytest

from understudy.credentials.placeholders import Placeholders
from understudy.policy.hosts import HostPattern
from understudy.policy.paths import PathPattern
from understudy.providers.preset import parse_route, provider_presets, read_preset

ROWS = {
    # name: kind, hosts, carriers, placeholder prefix, exported variables
    "anthropic": (
        "llm",
        ["api.anthropic.com"],
        ["header:x-api-key", "header:authorization"],
        "sk-ant-api03-",
        ["ANTHROPIC_API_KEY"],
    ),
    "azure-openai": (
        "llm",
        [],
        ["header:api-key", "header:authorization"],
        "",
        ["AZURE_OPENAI_API_KEY"],
    ),
    "cohere": ("llm", ["api.cohere.com"], ["header:authorization"], "", ["CO_API_KEY"]),
    "deepseek": (
        "llm",
        ["api.deepseek.com"],
        ["header:authorization"],
        "sk-",
        ["DEEPSEEK_API_KEY"],
    ),
    "gemini": (
        "llm",
        ["generativelanguage.googleapis.com"],
        ["header:x-goog-api-key"],
        "AIza",
        ["GOOGLE_API_KEY", "GEMINI_API_KEY"],
    ),
    "github": (
        "forge",
        ["api.github.com", "uploads.github.com", "github.com"],
        ["header:authorization", "basic:password"],
        "ghp_",
        ["GH_TOKEN", "GITHUB_TOKEN"],
    ),
    "groq": ("llm", ["api.groq.com"], ["header:authorization"], "gsk_", ["GROQ_API_KEY"]),
    "huggingface": (
        "llm",
        ["huggingface.co", "router.huggingface.co"],
        ["header:authorization"],
        "hf_",
        ["HF_TOKEN"],
    ),
    "mistral": ("llm", ["api.mistral.ai"], ["header:authorization"], "", ["MISTRAL_API_KEY"]),
    "npm-registry": ("registry", [], ["header:authorization"], "npm_", ["NODE_AUTH_TOKEN"]),
    "openai": ("llm", ["api.openai.com"], ["header:authorization"], "sk-proj-", ["OPENAI_API_KEY"]),
    "openrouter": (
        "llm",
        ["openrouter.ai"],
        ["header:authorization"],
        "sk-or-v1-",
        ["OPENROUTER_API_KEY"],
    ),
    "python-index": (
        "index",
        [],
        ["basic:password"],
        "pypi-",
        ["TWINE_PASSWORD", "UV_PUBLISH_TOKEN"],
    ),
    "xai": ("llm", ["api.x.ai"], ["header:authorization"], "xai-", ["XAI_API_KEY"]),
}


def test_there_is_one_file_for_each_row() -> None:
    found = {e.name for e in files("understudy.providers").iterdir() if e.name.endswith(".yaml")}
    assert found == {f"{name}.yaml" for name in ROWS}
    assert set(provider_presets()) == set(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_preset_says_what_clients_do(name: str) -> None:
    preset = provider_presets()[name]
    kind, hosts, carriers, prefix, variables = ROWS[name]
    assert preset.name == name
    assert preset.kind == kind
    assert list(preset.hosts) == hosts
    assert [carrier.label for carrier in preset.carriers] == carriers
    assert preset.shape.prefix == prefix
    assert list(preset.variables) == variables


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_preset_can_be_used(name: str) -> None:
    preset = provider_presets()[name]
    assert preset.title
    for host in preset.hosts:
        HostPattern.parse(host)
    for _, path in preset.model_routes:
        PathPattern.parse(path)
    Placeholders({name: preset.shape.mint()})
    assert bool(preset.model_routes) == (preset.kind == "llm")
    assert not set(preset.variables) & set(preset.alternative_variables)


def test_no_model_route_reaches_files_keys_or_administration() -> None:
    words = {"admin", "assistants", "batches", "files", "fine_tuning", "key", "keys"}
    words |= {"organization", "organizations", "uploads", "users", "vector_stores", "**"}
    for preset in provider_presets().values():
        for _, path in preset.model_routes:
            assert not words & set(path.split("/")), (preset.name, path)


def test_gemini_takes_its_key_from_the_query_only_where_asked() -> None:
    preset = provider_presets()["gemini"]
    assert [carrier.label for carrier in preset.optional_carriers] == ["query:key"]


def test_github_writes_the_user_that_git_needs() -> None:
    assert provider_presets()["github"].carriers[1].username == "x-access-token"
    assert provider_presets()["python-index"].carriers[0].username == "__token__"


@pytest.mark.parametrize(
    "change",
    [
        "surprise: 1",
        "kind: bank",
        "hosts: api.example.com",
        "carriers: []",
        "carriers: [{cookie: x}]",
        "placeholder: {prefix: x, length: 5}",
        "placeholder: {prefix: x, length: 40, alphabet: emoji}",
        "model_routes: [/v1/models]",
        "model_routes: [get /v1/models]",
        "variables: []",
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_an_error(change: str) -> None:
    lines = {
        "title": "title: X",
        "kind": "kind: llm",
        "hosts": "hosts: [api.example.com]",
        "carriers": "carriers: [{bearer: true}]",
        "placeholder": "placeholder: {prefix: x-, length: 40}",
        "variables": "variables: [X_API_KEY]",
    }
    read_preset("x", "\n".join(lines.values()))
    lines[change.partition(":")[0]] = change
    with pytest.raises(ValueError, match=r"\w"):
        read_preset("x", "\n".join(lines.values()))


def test_a_route_is_a_method_and_a_path() -> None:
    assert parse_route("POST /v1/messages") == ("POST", "/v1/messages")
    for text in ("POST", "POST v1", "/v1 POST", "POST /v1 /v2", ""):
        with pytest.raises(ValueError, match="method and a path"):
            parse_route(text)
