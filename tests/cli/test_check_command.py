from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Command

BROKEN = """\
version: 1
mode: enforc
allow:
  - {name: gpt, connection: openia}
"""
SHADOWED = """\
version: 1
allow:
  - {name: all, hosts: [a.example]}
  - {name: never, hosts: [a.example], methods: [GET]}
"""


def test_a_good_policy_is_said_to_be_good(understudy: Command, policy_file: Path) -> None:
    ran = understudy("check", policy_file)
    assert ran.code == 0
    assert ran.out == (
        f"{policy_file} is good: enforce mode, 2 connections, 2 allow rules, 1 deny rule\n"
    )


def test_a_folder_is_a_policy_too(understudy: Command, tmp_path: Path, policy_file: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    policy_file.rename(folder / "policy.yaml")
    assert understudy("check", folder).code == 0


def test_every_problem_is_printed_with_file_line_and_field(
    understudy: Command, tmp_path: Path
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    ran = understudy("check", file)
    assert ran.code == 1
    first, second, last = ran.out.splitlines()
    assert first.startswith(f"error {file}:2 mode: ")
    assert "Did you mean 'enforce'?" in first
    assert second.startswith(f"error {file}:4 allow[0].connection: ")
    assert last == f"{file} cannot be used: 2 errors"


def test_problems_come_as_json_too(understudy: Command, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    ran = understudy("check", "--json", file)
    assert ran.code == 1
    answer = json.loads(ran.out)
    assert (answer["good"], answer["digest"]) == (False, None)
    assert [(each["file"], each["line"]) for each in answer["problems"]] == [
        (str(file), 2),
        (str(file), 4),
    ]


def test_a_warning_fails_only_when_strict(understudy: Command, tmp_path: Path) -> None:
    file = tmp_path / "shadowed.yaml"
    file.write_text(SHADOWED)
    lenient, strict = understudy("check", file), understudy("check", "--strict", file)
    assert (lenient.code, strict.code) == (0, 1)
    for ran in (lenient, strict):
        assert f"warning {file}:4" in ran.out
    assert "can be used, with 1 warning" in lenient.out
    assert "fails, because of --strict: 1 warning" in strict.out
    assert not json.loads(understudy("check", "--strict", "--json", file).out)["good"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"a: [b", b"- 1", b"version: 1\n---\nversion: 1", b"\x00"]
)
def test_a_file_that_is_no_policy_gives_problems_and_no_traceback(
    understudy: Command, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "odd.yaml"
    file.write_bytes(content)
    ran = understudy("check", file)
    assert ran.code == 1
    assert ran.out.startswith(f"error {file}")


def test_a_path_with_nothing_there_is_wrong_usage(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("check", tmp_path / "none.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert f"{tmp_path}/none.yaml does not exist" in ran.err


def test_an_empty_folder_is_no_policy(understudy: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert understudy("check", tmp_path / "empty").code == 1


def test_markup_in_a_policy_is_shown_as_it_is(understudy: Command, tmp_path: Path) -> None:
    file = tmp_path / "[red]x.yaml"
    file.write_text("version: 1\n'[bold]': 1\n")
    ran = understudy("check", file)
    assert "[red]x.yaml" in ran.out
    assert "[bold]" in ran.out
