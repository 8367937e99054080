from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from tests.cli.conftest import Command


@pytest.fixture
def state(understudy: Command, tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    assert understudy("ca", "init", "--state-dir", folder).code == 0
    return folder


def test_init_makes_a_pair_whose_key_is_the_owners_alone(state: Path) -> None:
    assert stat.S_IMODE((state / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((state / "ca").stat().st_mode) == 0o700


def test_init_a_second_time_changes_nothing(understudy: Command, state: Path) -> None:
    before = (state / "ca" / "ca.key").read_bytes()
    assert understudy("ca", "init", "--state-dir", state).code == 0
    assert (state / "ca" / "ca.key").read_bytes() == before


def test_show_gives_fingerprint_and_expiry(understudy: Command, state: Path) -> None:
    facts = json.loads(understudy("ca", "show", "--state-dir", state, "--json").out)
    plain = understudy("ca", "show", "--state-dir", state)
    assert plain.code == 0
    assert facts["fingerprint_sha256"] in "".join(plain.out.split()).replace("from", "")
    assert facts["not_after"] in plain.out
    assert "days left" in plain.out
    assert max(map(len, plain.out.splitlines()[:-1])) <= 80


def test_show_makes_nothing_and_says_what_to_do(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("ca", "show", "--state-dir", tmp_path / "none")
    assert (ran.code, ran.out) == (2, "")
    assert "understudy ca init" in ran.err
    assert not (tmp_path / "none").exists()


def test_show_reads_the_operators_own_pair(understudy: Command, state: Path) -> None:
    own = ["--ca-cert", state / "ca" / "ca.crt", "--ca-key", state / "ca" / "ca.key"]
    ran = understudy("ca", "show", *own, "--json")
    assert json.loads(ran.out)["certificate"] == str(state / "ca" / "ca.crt")


def test_export_gives_the_certificate_and_never_the_key(understudy: Command, state: Path) -> None:
    ran = understudy("ca", "export", "--state-dir", state)
    assert ran.out == (state / "ca" / "ca.crt").read_text()


def test_an_exported_bundle_has_the_public_roots_too(
    understudy: Command, state: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bundle.pem"
    ran = understudy("ca", "export", "--state-dir", state, "--bundle", "--output", file)
    assert (ran.code, ran.out) == (0, "")
    assert (state / "ca" / "ca.crt").read_text() in file.read_text()
    assert file.read_text().count("BEGIN CERTIFICATE") > 50
    assert "PRIVATE" not in file.read_text()


def test_the_policys_own_roots_are_in_the_bundle(
    understudy: Command, state: Path, tmp_path: Path
) -> None:
    understudy("ca", "init", "--state-dir", tmp_path / "corporate")
    root = tmp_path / "corporate" / "ca" / "ca.crt"
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"version: 1\nallow: [{{name: a, hosts: [a.example]}}]\nupstream: {{ca_file: {root}}}\n"
    )
    ran = understudy("ca", "export", "--state-dir", state, "--bundle", "--policy", policy)
    assert root.read_text().strip() in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "--ca-cert", "x"], "go together"),
        (
            ["show", "--ca-cert", "/none/c", "--ca-key", "/none/k"],
            "cannot read the CA's certificate",
        ),
        (["export", "--policy", "x"], "Add --bundle"),
        (["export", "--output", "/none/x"], "cannot be written"),
        (["init", "--state-dir", "/dev/null/x"], "cannot make the CA"),
        (["bogus"], "No such command"),
    ],
)
def test_slips_get_a_sentence_and_exit_code_2(
    understudy: Command, state: Path, arguments: list[str], message: str
) -> None:
    if "--state-dir" not in arguments and "--ca-cert" not in arguments and arguments != ["bogus"]:
        arguments = [*arguments, "--state-dir", str(state)]
    ran = understudy("ca", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_a_key_that_others_can_read_is_refused(understudy: Command, state: Path) -> None:
    (state / "ca" / "ca.key").chmod(0o644)
    ran = understudy("ca", "show", "--state-dir", state)
    assert ran.code == 2
    assert "chmod 600" in ran.err
