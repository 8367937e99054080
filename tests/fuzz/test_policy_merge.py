"""A folder of policy files decides as one file does, and a file of denials only takes away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.policy.decide import decide, decide_tunnel
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
