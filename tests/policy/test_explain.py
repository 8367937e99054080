from __future__ import annotations

import pytest

from understudy.credentials.placeholders import PlaceholderBook
from understudy.policy.decide import decide
from understudy.policy.explain import explain
from understudy.reasons import Reason

POLICY = """
connections:
  claude: {provider: anthropic, secret: {env: ANTHROPIC_API_KEY}}
  forge: {provider: github, secret: {env: GH_TOKEN}}
  local: {hosts: [models.example], auth: {type: none}}
allow:
  - {name: claude, connection: claude}
  - {name: repos, connection: forge, methods: [GET, POST], paths: [/repos/acme/**]}
  - {name: local, connection: local}
  - {name: open, hosts: [open.example], schemes: [https, http]}
deny:
  - {name: no-secrets, hosts: [api.github.com], paths: [/repos/*/*/actions/secrets/**]}
"""
GATEWAY = "gateway: {url: 'https://litellm.example', kind: litellm}\n"


def mint(policy):
    book = PlaceholderBook(None)
    book.adopt(policy)
    return book.current


@pytest.fixture
def ask(load_text):
    def ask_it(method, url, headers=(), text=POLICY):
        policy = load_text(text).policy
        placeholders = mint(policy)
        filled = [(name, value.format_map(placeholders)) for name, value in headers]
        return explain(policy, method, url, filled, placeholders)

    return ask_it


def test_swap_names_rule_connection_carrier_and_destination(ask):
    found = ask("POST", "https://API.anthropic.com/v1/messages?beta=1", [("x-api-key", "{claude}")])
    assert (found.allow, found.reason, found.rule) == (True, Reason.ALLOWED, "claude")
    assert (found.connection, found.action, found.carriers) == (
        "claude",
        "swap",
        ("header:x-api-key",),
    )
    assert found.destination == "https://api.anthropic.com:443/v1/messages"


def test_request_without_credential_shows_where_one_may_stand(ask):
    found = ask("POST", "https://api.anthropic.com/v1/messages")
    assert (found.allow, found.action) == (True, "none")
    assert found.carriers == ("header:x-api-key", "header:authorization")


def test_gateway_is_the_destination(ask):
    found = ask("POST", "https://api.anthropic.com/v1/messages", text=GATEWAY + POLICY.lstrip())
    assert found.destination == "https://litellm.example:443/v1/messages"
    direct = ask("POST", "https://litellm.example/v1/messages", text=GATEWAY + POLICY.lstrip())
    assert (direct.allow, direct.rule) == (True, "claude")
    closed = ask("POST", "https://litellm.example/key/generate", text=GATEWAY + POLICY.lstrip())
    assert (closed.allow, closed.reason) == (False, Reason.GATEWAY_ROUTE_DENIED)
    assert closed.destination is None


@pytest.mark.parametrize(
    ("method", "url", "headers", "reason"),
    [
        ("GET", "https://evil.example/", [], Reason.HOST_NOT_ALLOWED),
        ("GET", "https://api.github.com/repos/acme/x/actions/secrets/y", [], Reason.DENIED_BY_RULE),
        ("PUT", "https://api.github.com/repos/acme/x", [], Reason.METHOD_NOT_ALLOWED),
        ("GET", "https://api.github.com/repos/evil/x", [], Reason.PATH_NOT_ALLOWED),
        ("GET", "https://api.github.com/../x", [], Reason.PATH_NOT_CANONICAL),
        ("GET", "http://api.github.com/repos/acme/x", [], Reason.TLS_REQUIRED),
        ("GET", "https://open.example/", [("x", "{claude}")], Reason.PLACEHOLDER_WRONG_HOST),
        (
            "GET",
            "https://api.github.com/repos/acme/x",
            [("authorization", "Bearer mine")],
            Reason.FOREIGN_CREDENTIAL,
        ),
        ("GET", "https://u:p@open.example/", [], Reason.BAD_TARGET),
        ("GET", "ftp://open.example/", [], Reason.BAD_TARGET),
        ("GET", "open.example", [], Reason.BAD_TARGET),
        ("GET", "https:///x", [], Reason.BAD_TARGET),
    ],
)
def test_denial_gives_the_reason_of_the_proxy(ask, method, url, headers, reason):
    found = ask(method, url, headers)
    assert (found.allow, found.reason, found.destination) == (False, reason, None)
    reported = ask(method, url, headers, "mode: report\n" + POLICY.lstrip())
    assert reported.allow is reason.reportable
    assert reported.reason is reason
    assert reported.action == "none"


def test_every_rule_says_why_it_did_not_match(ask):
    found = ask("GET", "https://api.github.com/repos/acme%2fx/y")
    assert {each.name: each.why for each in found.considered} == {
        "no-secrets": "paths /repos/*/*/actions/secrets/** match no reading of /repos/acme%2fx/y",
        "claude": "hosts api.anthropic.com do not include api.github.com",
        "repos": "paths /repos/acme/** do not include /repos/acme%2fx/y",
        "local": "hosts models.example do not include api.github.com",
        "open": "hosts open.example do not include api.github.com",
    }
    found = ask("PUT", "https://api.github.com:8443/repos/acme/x")
    assert found.considered[2].why == "ports 443 do not include 8443"
    found = ask("PUT", "https://api.github.com/repos/acme/x")
    assert found.considered[2].why == "methods GET, POST do not include PUT"
    found = ask("GET", "http://open.example:443/")
    assert found.considered[-1].why == "schemes https do not include http"
    found = ask("GET", "https://api.github.com/repos/acme/x;/../y")
    assert found.considered == ()


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    "url",
    [
        "https://api.github.com/repos/acme/x",
        "https://api.github.com/repos/acme/x/actions/secrets/y",
        "https://open.example/",
        "http://open.example/",
        "https://evil.example/",
    ],
)
def test_what_is_said_about_the_rules_agrees_with_the_verdict(load_text, method, url):
    policy = load_text(POLICY).policy
    found = explain(policy, method, url, [], mint(policy))
    matching = {(each.kind, each.name) for each in found.considered if each.matches}
    verdict = decide(policy, found.target)
    assert verdict.allow == found.allow
    if verdict.allow:
        assert ("allow", verdict.rule) in matching
        assert not any(kind == "deny" for kind, _ in matching)
    elif verdict.reason is Reason.DENIED_BY_RULE:
        assert ("deny", verdict.rule) in matching
    else:
        assert not any(kind == "allow" for kind, _ in matching)


def test_it_says_whether_a_request_may_become_a_websocket(ask):
    text = POLICY.replace("connection: local}", "connection: local, websocket: true}")
    assert ask("GET", "https://models.example/", text=text).websocket
    assert not ask("POST", "https://models.example/", text=text).websocket
    assert not ask("GET", "https://models.example/").websocket
    assert not ask("GET", "https://unlisted.example/", text=text).websocket
