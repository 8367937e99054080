from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.credentials.samples import connection

from understudy.credentials.placeholders import (
    PlaceholderBook,
    PlaceholderError,
    Placeholders,
    kept_placeholders,
    load_or_mint,
)
from understudy.credentials.shapes import PlaceholderShape, github_checksum
from understudy.policy.model import Connection, Limits, Policy, Upstream
from understudy.providers.preset import provider_presets

FIXED = "fixed-placeholder-0123456789"


def policy(*connections: Connection) -> Policy:
    return Policy(
        mode="enforce",
        connections={c.name: c for c in connections},
        allow=(),
        deny=(),
        gateway=None,
        upstream=Upstream(),
        limits=Limits(),
        digest="sha256:0",
    )


OPENAI = connection("team", provider="openai")
GITHUB = connection("bot", provider="github")
PLAIN = connection("search")


def test_a_placeholder_is_minted_once_and_kept(tmp_path: Path) -> None:
    first = load_or_mint(tmp_path, policy(OPENAI, GITHUB, PLAIN))
    assert first["team"].startswith("sk-proj-")
    assert first["bot"].startswith("ghp_")
    assert load_or_mint(tmp_path, policy(OPENAI, GITHUB, PLAIN)) == first


def test_one_that_vanishes_and_returns_has_its_placeholder_back(tmp_path: Path) -> None:
    first = load_or_mint(tmp_path, policy(OPENAI, GITHUB))
    assert set(load_or_mint(tmp_path, policy(GITHUB))) == {"bot"}
    assert load_or_mint(tmp_path, policy(OPENAI, GITHUB)) == first


def test_a_connection_with_another_provider_has_another_placeholder(tmp_path: Path) -> None:
    first = load_or_mint(tmp_path, policy(OPENAI))
    changed = load_or_mint(tmp_path, policy(replace(OPENAI, provider="github")))
    assert changed["team"].startswith("ghp_")
    assert first["team"] != changed["team"]


def test_a_run_of_its_own_shares_no_placeholder() -> None:
    first, second = PlaceholderBook(None), PlaceholderBook(None)
    first.adopt(policy(OPENAI))
    second.adopt(policy(OPENAI))
    assert first.current["team"] != second.current["team"]


def test_a_read_only_book_leaves_the_file_alone(tmp_path: Path) -> None:
    kept = load_or_mint(tmp_path, policy(OPENAI))
    before = (tmp_path / "placeholders.json").read_bytes()
    seen = kept_placeholders(tmp_path, policy(OPENAI, GITHUB))
    assert seen["team"] == kept["team"]
    assert seen["bot"].startswith("ghp_")
    assert (tmp_path / "placeholders.json").read_bytes() == before


def test_fixed_placeholders_are_taken_and_not_kept(tmp_path: Path) -> None:
    fixed = replace(OPENAI, placeholder=FIXED)
    assert load_or_mint(tmp_path, policy(fixed, GITHUB))["team"] == FIXED
    assert FIXED not in (tmp_path / "placeholders.json").read_text()


def test_connections_without_auth_have_none(tmp_path: Path) -> None:
    assert dict(load_or_mint(tmp_path, policy(replace(OPENAI, secret=None)))) == {}
    assert not (tmp_path / "placeholders.json").exists()


def test_the_file_is_the_owners_alone_and_replaced_whole(tmp_path: Path) -> None:
    load_or_mint(tmp_path / "state", policy(OPENAI))
    path = tmp_path / "state" / "placeholders.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = path.stat().st_ino
    load_or_mint(tmp_path / "state", policy(OPENAI, GITHUB))
    assert path.stat().st_ino != before
    assert [entry.name for entry in path.parent.iterdir()] == ["placeholders.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"version": 2, "placeholders": {}}',
        b'{"version": 1}',
        b'{"version": 1, "placeholders": []}',
        b'{"version": 1, "placeholders": {"team": 3}}',
    ],
)
def test_a_damaged_file_is_an_error_and_never_minted_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "placeholders.json"
    path.write_bytes(content)
    with pytest.raises(PlaceholderError, match="damaged"):
        load_or_mint(tmp_path, policy(OPENAI))
    assert path.read_bytes() == content


def test_a_policy_that_cannot_be_adopted_changes_nothing(tmp_path: Path) -> None:
    book = PlaceholderBook(tmp_path / "placeholders.json")
    book.adopt(policy(OPENAI))
    before = book.current
    clash = (replace(GITHUB, placeholder=FIXED), replace(PLAIN, placeholder=FIXED + "-longer"))
    with pytest.raises(PlaceholderError, match="overlap"):
        book.adopt(policy(*clash))
    assert book.current is before


def test_a_placeholder_that_cannot_be_written_is_not_used(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("a file where the folder should be")
    book = PlaceholderBook(blocked / "placeholders.json")
    with pytest.raises(OSError, match="state"):
        book.adopt(policy(OPENAI))
    assert dict(book.current) == {}


@pytest.mark.parametrize("text", ["", "a" * 23, "a" * 24 + " ", "a" * 24 + '"', "a" * 24 + "%41"])
def test_short_and_unsafe_placeholders_are_errors(text: str) -> None:
    with pytest.raises(PlaceholderError, match="search"):
        Placeholders({"search": text})


def test_a_placeholder_may_have_every_safe_character() -> None:
    text = "09azAZ._~-".ljust(24, "x")
    assert dict(Placeholders({"search": text})) == {"search": text}


@pytest.mark.parametrize("other", [FIXED, FIXED + "x", "x" + FIXED, "x" + FIXED + "x"])
def test_duplicates_and_overlaps_are_errors(other: str) -> None:
    with pytest.raises(PlaceholderError, match="overlap"):
        Placeholders({"one": FIXED, "two": other})


@given(st.lists(st.text("ab-", min_size=24, max_size=30), unique=True, max_size=6), st.binary())
def test_find_all_finds_every_placeholder_there_is(texts: list[str], noise: bytes) -> None:
    named = {str(index): text for index, text in enumerate(texts)}
    try:
        placeholders = Placeholders(named)
    except PlaceholderError:
        return
    data = noise + "".join(texts).encode() + noise
    assert placeholders.find_all(data) == tuple(n for n, t in named.items() if t.encode() in data)
    assert placeholders.find_all(data) == tuple(named)


def test_overlapping_occurrences_are_both_found() -> None:
    one, two = "a" * 30 + "b" * 10, "b" * 10 + "c" * 30
    placeholders = Placeholders({"one": one, "two": two})
    assert placeholders.find_all((one + "c" * 30).encode()) == ("one", "two")


@pytest.mark.parametrize("name", sorted(provider_presets()))
def test_every_providers_placeholder_is_accepted(name: str) -> None:
    shape = provider_presets()[name].shape
    text = shape.mint()
    Placeholders({"one": text, "two": shape.mint()})
    assert json.dumps(text) == f'"{text}"'
    assert len(text) == len(shape.prefix) + shape.length


def test_a_github_placeholder_never_has_a_valid_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    # A published token of GitHub's own documentation on its checksum form is not at hand, so the
    # form is pinned by its properties: six base-62 digits of CRC-32 of what stands before.
    assert github_checksum("") == "000000"
    assert len(github_checksum("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ")) == 6
    body = "a" * 30
    right = iter(body + github_checksum(body) + body + "000000")
    monkeypatch.setattr("secrets.choice", lambda _: next(right))
    text = PlaceholderShape("ghp_", 36, checksum="crc32-base62").mint()
    assert text == "ghp_" + body + "000000"


def test_shapes_with_too_little_chance_are_errors() -> None:
    PlaceholderShape("", 32, alphabet="hex")
    for shape in (
        (31, "hex", None),
        (21, "alphanumeric", None),
        (27, "alphanumeric", "crc32-base62"),
    ):
        with pytest.raises(ValueError, match="random bits"):
            PlaceholderShape("x", *shape)  # type: ignore[arg-type] # rows of literals
