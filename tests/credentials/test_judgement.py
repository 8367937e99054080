"""A judgement is about all of a head but one number in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from understudy.credentials.carriers import Head
from understudy.credentials.judgement import Judgement, judge_request
from understudy.credentials.placeholders import Placeholders
from understudy.policy.load import load
from understudy.policy.model import Policy, Target

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


@given(REQUESTS, st.integers(1, 10**15 - 1))
def test_the_number_in_content_length_changes_no_judgement(
    policy: Policy, request: tuple[list[tuple[bytes, bytes]], str, str, str, str], length: int
) -> None:
    """What is remembered of one head is used for the next one, which has another number there."""
    fields, method, path, query, host = request

    def judge(content_length: int) -> Judgement:
        shown = head(
            (b"Content-Length", b"%d" % content_length), *fields, path=(path + query).encode()
        )
        return judge_request(policy, PLACEHOLDERS, target(path, method, host), shown)

    one, other = judge(1), judge(length)
    assert one[1:] == other[1:]
    assert one.presented[1:] == other.presented[1:]
