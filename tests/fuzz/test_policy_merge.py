"""A folder of policy files decides as one file does, and a file of denials only takes away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.policy.decide import decide, decide_tunnel
from understudy.policy.direct import decide_request
from understudy.policy.load import load
from understudy.policy.model import Policy, Target

HOSTS = ["a.example", "b.a.example", "c.b.a.example", "d.example"]
RULES = st.fixed_dictionaries(
    {"hosts": st.lists(st.sampled_from([*HOSTS, "*.a.example"]), min_size=1, unique=True)},
    optional={
        "methods": st.lists(st.sampled_from(["GET", "POST"]), min_size=1, unique=True),
        "paths": st.lists(st.sampled_from(["/", "/x", "/x/**", "/*"]), min_size=1, unique=True),
        "ports": st.lists(st.sampled_from([443, 8443]), min_size=1, unique=True),
    },
)
# At least one: a policy without any rule is an error of its own.
ALLOWED = st.lists(RULES, min_size=1, max_size=4)
DENIED = st.lists(RULES, max_size=3)
TARGETS = [
    Target(method, "https", host, port, path)
    for method in ("GET", "POST")
    for host in HOSTS
    for port in (443, 8443)
    for path in ("/", "/x", "/x/y")
]


def load_files(*files: dict[str, Any]) -> Policy:
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(files):
            # An empty list is an error: it might be meant as all.
            written = {field: rules for field, rules in content.items() if rules}
            text = yaml.safe_dump({"version": 1, **written})
            Path(folder, f"{number:02}.yaml").write_text(text)
        return load(Path(folder), {}).policy


def named(kind: str, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": f"{kind}-{number}", **rule} for number, rule in enumerate(rules)]


@settings(deadline=None, max_examples=40)
@given(ALLOWED, DENIED, st.integers(0, 4), st.integers(0, 3))
def test_where_the_files_are_cut_changes_no_decision(
    allowed: list[dict[str, Any]], denied: list[dict[str, Any]], one: int, two: int
) -> None:
    allow, deny = named("allow", allowed), named("deny", denied)
    whole = load_files({"allow": allow, "deny": deny})
    parts = load_files(
        {"allow": allow[:one], "deny": deny[:two]}, {"deny": deny[two:], "allow": allow[one:]}
    )
    for target in TARGETS:
        assert decide(whole, target) == decide(parts, target)
        assert decide_tunnel(whole, target.host, target.port) == decide_tunnel(
            parts, target.host, target.port
        )


@settings(deadline=None, max_examples=40)
@given(ALLOWED, DENIED.filter(bool), st.booleans())
def test_a_file_of_denials_never_allows_more(
    allowed: list[dict[str, Any]], denied: list[dict[str, Any]], first: bool
) -> None:
    files = [{"allow": named("allow", allowed)}]
    before = load_files(*files)
    files.insert(0 if first else 1, {"deny": named("deny", denied)})
    after = load_files(*files)
    for target in TARGETS:
        assert decide(before, target).allow or not decide(after, target).allow
        tunnel = decide_tunnel(after, target.host, target.port)
        assert decide_tunnel(before, target.host, target.port).allow or not tunnel.allow


AT_GATEWAY = {
    "gateway": {"url": "https://gateway.example/cf", "kind": "cloudflare"},
    "connections": {
        "gpt": {"provider": "openai", "secret": {"env": "GPT"}},
        "claude": {"provider": "anthropic", "secret": {"env": "CLAUDE"}},
    },
}
GATEWAY_HOSTS = ["gateway.example", "api.openai.com", "api.anthropic.com"]
GATEWAY_PATHS = {
    "/v1/models": ["/v1/models", "/v1/*", "/**"],
    "/cf/openai/models": ["/cf/openai/*", "/cf/**", "/**"],
    "/cf/anthropic/v1/models": ["/cf/anthropic/v1/models", "/cf/**", "/**"],
}
GATEWAY_DENIED = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "hosts": st.lists(st.sampled_from(GATEWAY_HOSTS), min_size=1, unique=True),
            "methods": st.just(["GET"]),
            "paths": st.lists(
                st.sampled_from(sorted({p for ps in GATEWAY_PATHS.values() for p in ps})),
                min_size=1,
                unique=True,
            ),
        },
    ).filter(bool),
    min_size=1,
    max_size=3,
)
GATEWAY_TARGETS = [
    (Target(method, "https", host, 443, path), presented)
    for method in ("GET", "POST")
    for host in GATEWAY_HOSTS
    for path in GATEWAY_PATHS
    for presented in (None, "gpt", "claude")
]


@settings(deadline=None, max_examples=40)
@given(GATEWAY_DENIED, st.sampled_from(["gpt", "claude"]))
def test_a_denial_holds_at_the_gateway_as_it_is_written_and_allows_nothing(
    denied: list[dict[str, Any]], first: str
) -> None:
    allow = [{"name": f"use-{name}", "connection": name} for name in ("gpt", "claude")]
    allow.sort(key=lambda rule: rule["connection"] != first)
    before = load_files({**AT_GATEWAY, "allow": allow})
    after = load_files({**AT_GATEWAY, "allow": allow, "deny": named("deny", denied)})
    for target, presented in GATEWAY_TARGETS:
        verdict = decide_request(after, target, presented)
        assert decide_request(before, target, presented).allow or not verdict.allow
        for rule in denied:
            matches = (
                target.host in rule.get("hosts", GATEWAY_HOSTS)
                and target.method in rule.get("methods", [target.method])
                and not {*rule.get("paths", ["/**"])}.isdisjoint(GATEWAY_PATHS[target.path])
            )
            assert not (matches and verdict.allow)
