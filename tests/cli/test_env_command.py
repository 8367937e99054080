from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Command


def env_as_json(understudy: Command, *arguments: object) -> dict[str, str]:
    ran = understudy("env", *arguments, "--format", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_the_placeholders_are_kept_for_run_and_no_secret_is_printed(
    understudy: Command, policy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-real-one")
    arguments = ["--policy", policy_file, "--state-dir", tmp_path / "state"]
    first, second = env_as_json(understudy, *arguments), env_as_json(understudy, *arguments)
    assert first == second
    assert first["OPENAI_API_KEY"].startswith("sk-proj-")
    assert first["HTTPS_PROXY"] == first["https_proxy"] == "http://127.0.0.1:9080"
    assert "sk-the-real-one" not in json.dumps(first)
    kept = json.loads((tmp_path / "state" / "placeholders.json").read_text())
    assert kept["placeholders"]["openai"] == first["OPENAI_API_KEY"]


def test_the_files_that_the_variables_name_are_there(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    environment = env_as_json(understudy, "--policy", policy_file, "--state-dir", tmp_path / "s")
    certificate = Path(environment["NODE_EXTRA_CA_CERTS"]).read_text()
    assert certificate.count("BEGIN CERTIFICATE") == 1
    assert certificate in Path(environment["SSL_CERT_FILE"]).read_text()
    assert "PRIVATE" not in certificate


def test_files_that_the_proxy_wrote_are_left_alone(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    for name in ("ca.crt", "bundle.pem"):
        (public / name).write_text("of another CA")
    env_as_json(understudy, "--policy", policy_file, "--state-dir", tmp_path)
    assert (public / "bundle.pem").read_text() == "of another CA"
    assert not (tmp_path / "ca").exists()


def test_paths_and_proxy_are_as_the_sandbox_sees_them(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    environment = env_as_json(
        understudy,
        *("--policy", policy_file, "--state-dir", tmp_path / "state"),
        *("--proxy-url", "http://understudy:9080"),
        *("--ca-cert", "/trust/ca.crt", "--bundle", "/trust/bundle.pem"),
    )
    assert environment["http_proxy"] == "http://understudy:9080"
    assert environment["NODE_EXTRA_CA_CERTS"] == "/trust/ca.crt"
    assert environment["SSL_CERT_FILE"] == "/trust/bundle.pem"
    assert not (tmp_path / "state" / "ca").exists()


def test_every_format_says_the_same(understudy: Command, policy_file: Path, tmp_path: Path) -> None:
    arguments = ["--policy", policy_file, "--state-dir", tmp_path / "a b'c"]
    wanted = env_as_json(understudy, *arguments)
    script = understudy("env", *arguments).out + "env -0\n"
    shown = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True)
    pairs = (entry.partition("=") for entry in shown.stdout.split("\0") if entry)
    assert wanted.items() <= {name: value for name, _, value in pairs}.items()
    listed = yaml.safe_load(understudy("env", *arguments, "--format", "kubernetes").out)
    assert {each["name"]: each["value"] for each in listed} == wanted
    dotenv = understudy("env", *arguments, "--format", "dotenv").out
    lines = (line.partition("=") for line in dotenv.splitlines())
    assert {name: shlex.split(value)[0] for name, _, value in lines} == wanted


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:9080", "ftp://x:1", "http://x", "http://x:y", "http://[:1"]
)
def test_a_proxy_url_that_is_none_is_wrong_usage(
    understudy: Command, policy_file: Path, url: str
) -> None:
    ran = understudy("env", "--policy", policy_file, "--proxy-url", url)
    assert (ran.code, ran.out) == (2, "")
    assert "is not a proxy's URL" in ran.err


def test_a_state_directory_that_cannot_be_made_is_a_clear_error(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    ran = understudy("env", "--policy", policy_file, "--state-dir", tmp_path / "file" / "state")
    assert (ran.code, ran.out) == (2, "")
    assert "Not a directory" in ran.err
