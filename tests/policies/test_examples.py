"""What each example policy allows and denies, request by request."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.credentials.placeholders import PlaceholderBook
from understudy.policy.explain import explain
from understudy.policy.load import load
from understudy.reasons import Reason

FOLDER = Path(__file__).parents[2] / "policies"

ALLOWED = {
    "llm-agent": [
        ("POST", "https://api.anthropic.com/v1/messages", "claude"),
        ("POST", "https://api.anthropic.com/v1/messages?beta=true", "claude"),
        ("GET", "https://api.anthropic.com/v1/models", "claude"),
        ("POST", "https://api.openai.com/v1/chat/completions", "gpt"),
        ("POST", "https://api.openai.com/v1/responses", "gpt"),
        ("GET", "https://api.openai.com/v1/responses/resp_1", "gpt"),
        ("POST", "https://api.openai.com/v1/embeddings", "gpt"),
        (
            "POST",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent",
            "gemini",
        ),
    ],
    "llm-agent-litellm": [
        ("POST", "https://api.anthropic.com/v1/messages", "claude"),
        ("POST", "https://api.openai.com/v1/chat/completions", "gpt"),
        ("POST", "https://litellm.corp.example/v1/messages", "claude"),
    ],
    "coding-agent": [
        ("GET", "https://api.github.com/user", "github-api"),
        ("GET", "https://api.github.com/repos/acme/app/pulls?state=open", "github-api"),
        ("POST", "https://api.github.com/repos/acme/app/pulls", "github-api"),
        ("PUT", "https://api.github.com/repos/acme/app/pulls/1/merge", "github-api"),
        ("GET", "https://api.github.com/repos/acme/app/actions/runs", "github-api"),
        ("GET", "https://github.com/acme/app.git/info/refs?service=git-upload-pack", "git"),
        ("POST", "https://github.com/acme/app.git/git-upload-pack", "git"),
        ("POST", "https://github.com/acme/app/git-receive-pack", "git"),
    ],
    "package-mirror": [
        ("GET", "https://python.packages.corp.example/simple/requests/", "python-packages"),
        ("GET", "https://python.packages.corp.example/packages/a/b.whl", "python-packages"),
        ("GET", "https://node.packages.corp.example/left-pad", "node-packages"),
        ("GET", "https://node.packages.corp.example/@acme%2fwidget", "node-packages"),
        (
            "POST",
            "https://node.packages.corp.example/-/npm/v1/security/advisories/bulk",
            "node-advisories",
        ),
    ],
    "internal-api": [
        ("POST", "https://search.corp.example/v2/query", "search"),
        ("GET", "https://search.corp.example/v2/documents/42", "search"),
        ("POST", "https://models.corp.example:8443/v1/chat/completions", "models"),
    ],
}

DENIED = {
    "llm-agent": [
        ("POST", "https://api.anthropic.com/v1/files", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.anthropic.com/v1/messages/batches", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.anthropic.com/v1/messages%2f..%2ffiles", Reason.PATH_NOT_CANONICAL),
        ("POST", "https://api.openai.com/v1/files", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.openai.com/v1/organization/admin_api_keys", Reason.PATH_NOT_ALLOWED),
        ("DELETE", "https://api.openai.com/v1/models/m", Reason.METHOD_NOT_ALLOWED),
        ("GET", "http://api.openai.com/v1/models", Reason.TLS_REQUIRED),
        ("GET", "https://api.openai.com:8443/v1/models", Reason.PORT_NOT_ALLOWED),
        ("GET", "https://example.com/", Reason.HOST_NOT_ALLOWED),
    ],
    "llm-agent-litellm": [
        ("POST", "https://litellm.corp.example/key/generate", Reason.PATH_NOT_ALLOWED),
        ("GET", "https://litellm.corp.example/", Reason.PATH_NOT_ALLOWED),
        ("POST", "http://litellm.corp.example/v1/messages", Reason.TLS_REQUIRED),
        ("POST", "https://api.openai.com/v1/files", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.mistral.ai/v1/chat/completions", Reason.HOST_NOT_ALLOWED),
    ],
    "coding-agent": [
        ("GET", "https://api.github.com/repos/other/app", Reason.PATH_NOT_ALLOWED),
        ("GET", "https://api.github.com/repos/acme%2fapp", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.github.com/graphql", Reason.PATH_NOT_ALLOWED),
        ("POST", "https://api.github.com/user/keys", Reason.PATH_NOT_ALLOWED),
        ("DELETE", "https://api.github.com/repos/acme/app", Reason.DENIED_BY_RULE),
        ("POST", "https://api.github.com/repos/acme/app/hooks", Reason.DENIED_BY_RULE),
        ("POST", "https://api.github.com/repos/acme/app//hooks", Reason.DENIED_BY_RULE),
        ("POST", "https://api.github.com/repos/acme/app/%68ooks", Reason.DENIED_BY_RULE),
        ("PUT", "https://api.github.com/repos/acme/app/actions/secrets/X", Reason.DENIED_BY_RULE),
        ("PUT", "https://api.github.com/repos/acme/app/collaborators/eve", Reason.DENIED_BY_RULE),
        ("GET", "https://github.com/other/app.git/info/refs", Reason.PATH_NOT_ALLOWED),
        ("GET", "https://github.com/acme/app/settings", Reason.PATH_NOT_ALLOWED),
        (
            "POST",
            "https://uploads.github.com/repos/acme/app/releases/1/assets",
            Reason.HOST_NOT_ALLOWED,
        ),
        ("GET", "https://gist.github.com/", Reason.HOST_NOT_ALLOWED),
    ],
    "package-mirror": [
        ("PUT", "https://node.packages.corp.example/left-pad", Reason.METHOD_NOT_ALLOWED),
        ("POST", "https://python.packages.corp.example/legacy/", Reason.METHOD_NOT_ALLOWED),
        ("GET", "https://python.packages.corp.example/admin", Reason.PATH_NOT_ALLOWED),
        ("GET", "https://node.packages.corp.example/-/npm/v1/tokens", Reason.DENIED_BY_RULE),
        ("PUT", "https://node.packages.corp.example/-/user/x", Reason.DENIED_BY_RULE),
        ("GET", "https://packages.example.org/simple/requests/", Reason.HOST_NOT_ALLOWED),
    ],
    "internal-api": [
        ("DELETE", "https://search.corp.example/v2/documents/42", Reason.METHOD_NOT_ALLOWED),
        ("GET", "https://search.corp.example/v2/documents/42/raw", Reason.PATH_NOT_ALLOWED),
        ("GET", "https://search.corp.example/v2/documents/hr-1", Reason.DENIED_BY_RULE),
        ("GET", "https://search.corp.example/v2/documents/%68r-1", Reason.DENIED_BY_RULE),
        ("POST", "https://models.corp.example/v1/chat/completions", Reason.PORT_NOT_ALLOWED),
        ("GET", "https://models.corp.example:8443/metrics", Reason.PATH_NOT_ALLOWED),
    ],
}


def mint(policy):
    book = PlaceholderBook(None)
    book.adopt(policy)
    return book.current


NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def rows(table):
    return [(name, *row) for name, found in table.items() for row in found]


def ask(name, method, url, headers=()):
    policy = load(FOLDER / f"{name}.yaml", {}).policy
    placeholders = mint(policy)
    filled = [(header, value.format_map(placeholders)) for header, value in headers]
    return explain(policy, method, url, filled, placeholders)


def test_every_example_has_its_rows():
    assert NAMES == sorted(ALLOWED) == sorted(DENIED)


@pytest.mark.parametrize("name", NAMES)
def test_example_loads_as_it_is_without_a_warning(name):
    assert load(FOLDER / f"{name}.yaml", {}).warnings == ()


@pytest.mark.parametrize(("name", "method", "url", "rule"), rows(ALLOWED))
def test_example_allows(name, method, url, rule):
    found = ask(name, method, url)
    assert (found.allow, found.reason, found.rule) == (True, Reason.ALLOWED, rule)


@pytest.mark.parametrize(("name", "method", "url", "reason"), rows(DENIED))
def test_example_denies(name, method, url, reason):
    found = ask(name, method, url)
    assert not found.allow
    assert found.reason is reason


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_of_an_example_is_seen_at_work(name):
    policy = load(FOLDER / f"{name}.yaml", {}).policy
    assert {rule.name for rule in policy.allow} == {row[2] for row in ALLOWED[name]}
    denying = {ask(name, method, url).rule for method, url, _ in DENIED[name]}
    assert {rule.name for rule in policy.deny} <= denying


@pytest.mark.parametrize(
    ("name", "method", "url", "header", "action", "destination"),
    [
        (
            "llm-agent",
            "POST",
            "https://api.anthropic.com/v1/messages",
            ("x-api-key", "{anthropic}"),
            "swap",
            "https://api.anthropic.com:443/v1/messages",
        ),
        (
            "llm-agent-litellm",
            "POST",
            "https://api.openai.com/v1/chat/completions",
            ("Authorization", "Bearer {openai}"),
            "swap",
            "https://litellm.corp.example:443/v1/chat/completions",
        ),
        (
            "coding-agent",
            "GET",
            "https://api.github.com/repos/acme/app",
            ("Authorization", "token {github-bot}"),
            "swap",
            "https://api.github.com:443/repos/acme/app",
        ),
        (
            "package-mirror",
            "GET",
            "https://python.packages.corp.example/simple/",
            None,
            "inject",
            "https://python.packages.corp.example:443/simple/",
        ),
        (
            "internal-api",
            "POST",
            "https://search.corp.example/v2/query",
            ("X-Search-Key", "{search}"),
            "swap",
            "https://search.corp.example:443/v2/query",
        ),
    ],
)
def test_example_treats_its_credential_as_its_comments_say(  # noqa: PLR0917 - a table's columns
    name, method, url, header, action, destination
):
    found = ask(name, method, url, [header] if header else [])
    assert (found.allow, found.action, found.destination) == (True, action, destination)


@pytest.mark.parametrize(
    ("name", "method", "url", "header", "reason"),
    [
        (
            "llm-agent",
            "POST",
            "https://api.anthropic.com/v1/messages",
            ("x-api-key", "sk-ant-my-own-key"),
            Reason.FOREIGN_CREDENTIAL,
        ),
        (
            "llm-agent",
            "POST",
            "https://api.openai.com/v1/responses",
            ("Authorization", "Bearer {anthropic}"),
            Reason.PLACEHOLDER_WRONG_HOST,
        ),
        (
            "internal-api",
            "POST",
            "https://search.corp.example/v2/query",
            ("Authorization", "Bearer {search}"),
            Reason.PLACEHOLDER_MISPLACED,
        ),
    ],
)
def test_example_refuses_other_credentials(name, method, url, header, reason):
    found = ask(name, method, url, [header])
    assert (found.allow, found.reason) == (False, reason)
