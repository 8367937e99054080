import pytest

CONNECTIONS = """
connections:
  one: {hosts: ["*.example.com"], carriers: [{bearer: true}], secret: {env: ONE}}
  two: {hosts: ["*.example.com"], carriers: [{bearer: true}], secret: {env: TWO}}
  open: {hosts: ["*.example.com"], auth: {type: none}}
allow:
  - {name: use-one, connection: one, hosts: [used.example.com], ports: [1]}
  - {name: use-two, connection: two, hosts: [used.example.com], ports: [2]}
  - {name: use-open, connection: open, hosts: [used.example.com], ports: [3]}
"""


def findings(load_text, rules):
    loaded = load_text(CONNECTIONS + rules)
    return {problem.field: problem for problem in loaded.warnings}


@pytest.mark.parametrize(
    "rules",
    [
        "  - {name: a, hosts: [a.b]}\n  - {name: b, hosts: [a.b], paths: [/x]}",
        "  - {name: a, hosts: ['*.a.b']}\n  - {name: b, hosts: [x.a.b], methods: [GET]}",
        (
            "  - {name: a, hosts: [a.b], paths: [/v1/**]}\n"
            "  - {name: b, hosts: [a.b], paths: [/v1/x, /v1/y/*]}"
        ),
        "  - {name: a, connection: one}\n  - {name: b, connection: one, methods: [POST]}",
        "  - {name: a, connection: one}\n  - {name: b, hosts: [a.example.com]}",
        "  - {name: a, connection: one}\n  - {name: b, connection: open}",
        "  - {name: a, hosts: [a.b]}\n  - {name: b, hosts: [a.b]}\n",
        (
            "  - {name: x, hosts: [x.y]}\n  - {name: b, hosts: [a.b]}\n"
            "deny:\n  - {name: d, hosts: [a.b]}"
        ),
        (
            "  - {name: x, hosts: [x.y]}\n  - {name: b, hosts: [a.b], methods: [PUT]}\n"
            "deny:\n  - {name: d, methods: [PUT, POST]}"
        ),
    ],
)
def test_rule_that_can_never_match_is_told(load_text, rules):
    found = findings(load_text, rules)
    assert list(found) == ["allow[4]"]
    assert "this rule can never match" in found["allow[4]"].message
    assert found["allow[4]"].severity == "warning"
    assert found["allow[4]"].line


@pytest.mark.parametrize(
    "rules",
    [
        "  - {name: a, hosts: [a.b], paths: [/x]}\n  - {name: b, hosts: [a.b]}",
        "  - {name: a, hosts: [a.b], methods: [GET]}\n  - {name: b, hosts: [a.b], methods: [PUT]}",
        "  - {name: a, hosts: [a.b]}\n  - {name: b, hosts: [a.b], methods: [PROPFIND]}",
        "  - {name: a, hosts: [a.b], methods: [PROPFIND]}\n  - {name: b, hosts: [a.b]}",
        "  - {name: a, hosts: [a.b]}\n  - {name: b, hosts: [a.b], ports: [8443]}",
        "  - {name: a, hosts: [a.b]}\n  - {name: b, hosts: [a.b], schemes: [https, http]}",
        "  - {name: a, hosts: ['*.a.b']}\n  - {name: b, hosts: [a.b]}",
        "  - {name: a, connection: one}\n  - {name: b, connection: two}",
        (
            "  - {name: a, hosts: [a.example.com]}\n"
            "  - {name: b, connection: one, hosts: [a.example.com]}"
        ),
        "  - {name: b, hosts: [a.b]}\ndeny:\n  - {name: d, hosts: [a.b], methods: [GET]}",
        "  - {name: b, hosts: [a.b]}\ndeny:\n  - {name: d, hosts: [a.b], paths: [/x]}",
        "  - {name: b, hosts: [a.b]}\ndeny:\n  - {name: d, ports: [80]}",
        "  - {name: b, hosts: [a.b]}\ndeny: [{name: d, methods: [PUT]}, {name: e, ports: [9]}]",
    ],
)
def test_rule_that_can_match_is_left_alone(load_text, rules):
    assert findings(load_text, rules) == {}


def test_rule_split_by_scheme_is_reported_only_where_both_halves_are_hidden(load_text):
    hidden = "  - {name: b, hosts: [a.b], schemes: [https, http]}\n"
    assert findings(load_text, "  - {name: a, hosts: [a.b]}\n" + hidden) == {}
    rules = "  - {name: a, hosts: [a.b], schemes: [https, http]}\n" + hidden
    assert list(findings(load_text, rules)) == ["allow[4]"]


def test_rule_through_the_gateway_does_not_hide_itself(load_text):
    text = (
        "gateway: {url: 'https://g.example'}\n"
        "connections: {o: {provider: openai, secret: {env: O}}}\n"
        "allow: [{name: a, connection: o}, {name: g, hosts: [g.example], paths: [/health]}]\n"
    )
    assert load_text(text).warnings == ()


def test_unused_connection_is_told(load_text):
    (problem,) = load_text("connections: {o: {provider: openai, secret: {env: O}}}\n").warnings
    assert (problem.field, problem.line) == ("connections.o", 2)
    assert "no allow rule uses" in problem.message


def test_deny_rule_without_effect_is_told(load_text):
    rules = "deny:\n  - {name: d, methods: [GET]}\n  - {name: e, hosts: [a.b], methods: [GET]}"
    assert list(findings(load_text, rules)) == ["deny[1]"]


def test_a_websocket_rule_for_the_gateway_is_without_effect(load_text):
    text = """
    gateway: {url: "https://llm.example", providers: [openai]}
    connections:
      gpt: {provider: openai, secret: {env: ONE}}
      bot: {provider: github, secret: {env: TWO}}
    allow:
      - {name: gpt, connection: gpt, websocket: true}
      - {name: bot, connection: bot, websocket: true}
    """
    (problem,) = load_text(text).warnings
    assert (problem.field, problem.severity) == ("allow[0]", "warning")
    assert "no WebSocket is passed to the gateway" in problem.message
