"""What was judged once is judged the same again, and never by a policy that is no longer there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from understudy.credentials.carriers import Head
from understudy.credentials.judgement import Judge, judge_request
from understudy.credentials.placeholders import Placeholders
from understudy.policy.load import load
from understudy.policy.model import Policy, Target
from understudy.reasons import Reason

PLACEHOLDER = "sk-good-0123456789abcdefghijABCDEFGHIJ"
PLACEHOLDERS = Placeholders({"good": PLACEHOLDER})
POLICY = {
    "version": 1,
    "connections": {
        "good": {
            "hosts": ["good.example"],
            "carriers": [{"header": "X-Api-Key"}, {"query": "key"}],
            "secret": {"env": "GOOD_KEY"},
        }
    },
    "allow": [{"name": "good", "connection": "good", "paths": ["/v1/**"]}],
}


def load_policy(folder: Path, document: dict[str, object]) -> Policy:
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump(document))
    return load(file, {}).policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(tmp_path_factory.mktemp("policy"), POLICY)


def target(path: str = "/v1/x", method: str = "POST", host: str = "good.example") -> Target:
    return Target(method, "https", host, 443, path)


def head(*fields: tuple[bytes, bytes], path: bytes = b"/v1/x") -> Head:
    return Head((*fields,), path)


KEY = (b"X-Api-Key", PLACEHOLDER.encode())

FIELDS = st.lists(
    st.sampled_from(
        [
            KEY,
            (b"x-api-key", b"another"),
            (b"Accept", b"*/*"),
            (b"Content-Length", b"3"),
            (b"Content-Length", b"4"),
            (b"Cookie", b"a=b"),
            (b"X-Http-Method-Override", b"DELETE"),
        ]
    ),
    max_size=3,
)
REQUESTS = st.tuples(
    FIELDS,
    st.sampled_from(["POST", "GET", "TRACE"]),
    st.sampled_from(["/v1/x", "/v1/y", "/v2/x"]),
    st.sampled_from(["", "?key=" + PLACEHOLDER, "?key=other"]),
    st.sampled_from(["good.example", "evil.example"]),
)


@given(st.lists(REQUESTS, max_size=12))
def test_a_remembered_judgement_is_the_one_that_would_be_made(
    policy: Policy, requests: list[tuple[list[tuple[bytes, bytes]], str, str, str, str]]
) -> None:
    judge = Judge()
    for fields, method, path, query, host in [*requests, *requests]:
        asked = target(path, method, host)
        shown = head(*fields, path=(path + query).encode())
        fresh = judge_request(policy, PLACEHOLDERS, asked, shown)
        judgement = judge.judge(policy, PLACEHOLDERS, asked, shown)
        # The head that was looked at differs in its Content-Length, and in nothing that is used.
        assert judgement[1:] == fresh[1:]
        assert judgement.presented.connection == fresh.presented.connection
        assert judgement.presented.strays == fresh.presented.strays


def test_another_policy_judges_anew(policy: Policy, tmp_path: Path) -> None:
    judge = Judge()
    assert judge.judge(policy, PLACEHOLDERS, target(), head(KEY)).refusal is None
    stricter = load_policy(tmp_path, POLICY | {"deny": [{"name": "no", "hosts": ["good.example"]}]})
    assert judge.judge(stricter, PLACEHOLDERS, target(), head(KEY)).refusal is Reason.DENIED_BY_RULE


def test_other_placeholders_judge_anew(policy: Policy) -> None:
    judge = Judge()
    assert judge.judge(policy, PLACEHOLDERS, target(), head(KEY)).refusal is None
    other = Placeholders({"good": PLACEHOLDER[::-1]})
    assert judge.judge(policy, other, target(), head(KEY)).refusal is Reason.FOREIGN_CREDENTIAL


def test_what_is_remembered_does_not_grow_with_what_clients_send(policy: Policy) -> None:
    judge = Judge()
    for number in range(2000):
        path = f"/v1/{number}"
        judge.judge(policy, PLACEHOLDERS, target(path), head(KEY, path=path.encode()))
    judge.judge(policy, PLACEHOLDERS, target(), head((b"X-Long", b"x" * 5000)))
    known = judge._known
    assert len(known) <= 256
    assert not any((b"X-Long", b"x" * 5000) in key[2] for key in known)  # type: ignore[operator] # its fields
