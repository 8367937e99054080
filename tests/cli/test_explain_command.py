from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from tests.cli.conftest import Command


@pytest.fixture(autouse=True)
def no_network_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("explain must not reach out")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("understudy.credentials.sources.EnvironmentSource.fetch", refuse)
    monkeypatch.setattr("understudy.credentials.sources.FileSource.fetch", refuse)


def test_an_allowed_request_shows_rule_connection_carrier_and_destination(
    understudy: Command, policy_file: Path
) -> None:
    ran = understudy("explain", "POST", "https://api.openai.com/v1/x?q=1", "--policy", policy_file)
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["verdict", "allowed"] in lines
    assert ["rule", "gpt"] in lines
    assert ["connection", "openai"] in lines
    assert ["sent", "to", "https://api.openai.com:443/v1/x"] in lines
    assert "header:authorization" in ran.out
    assert "OPENAI_API_KEY" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("method", "url", "reason"),
    [
        ("GET", "https://example.com/", "host_not_allowed"),
        ("GET", "https://api.openai.com:8443/", "port_not_allowed"),
        ("GET", "http://api.openai.com/", "tls_required"),
        ("DELETE", "https://api.github.com/repos/acme/x", "denied_by_rule"),
        ("PUT", "https://api.github.com/repos/acme/x", "method_not_allowed"),
        ("GET", "https://api.github.com/user", "path_not_allowed"),
        ("GET", "https://api.github.com/repos/acme/../x", "path_not_canonical"),
        ("GET", "no url", "bad_target"),
        ("GET", "https://u@api.openai.com/", "bad_target"),
    ],
)
def test_a_denied_request_shows_the_reason_its_sentence_and_a_hint(
    understudy: Command, policy_file: Path, method: str, url: str, reason: str
) -> None:
    ran = understudy("explain", method, url, "--policy", policy_file)
    assert ran.code == 1
    assert ran.out.splitlines()[0].split() == ["verdict", "denied,", reason]
    assert "\nagent sees " in ran.out
    assert "\nhint " in ran.out
    assert "sent to" not in ran.out


def test_every_rule_is_shown_with_why_it_does_not_match(
    understudy: Command, policy_file: Path
) -> None:
    url = "https://api.github.com/user"
    ran = understudy("explain", "GET", url, "--policy", policy_file, "--json")
    considered = {each["name"]: each for each in json.loads(ran.out)["considered"]}
    assert set(considered) == {"no-deletes", "gpt", "repos"}
    assert considered["no-deletes"]["kind"] == "deny"
    assert "/repos/acme/**" in considered["repos"]["why"]
    assert not any(each["matches"] for each in considered.values())


def test_a_placeholder_in_a_header_is_known_from_the_state_directory(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    printed = understudy("env", "--policy", policy_file, "--state-dir", state, "--format", "json")
    placeholders = json.loads(printed.out)
    common = ["--policy", policy_file, "--state-dir", state, "--json"]
    url = "https://api.openai.com/v1/models"
    own = f"Authorization: Bearer {placeholders['OPENAI_API_KEY']}"
    ran = understudy("explain", "GET", url, "-H", "Accept: */*", "--header", own, *common)
    assert ran.code == 0
    assert json.loads(ran.out)["credential"] == {
        "action": "swap",
        "carriers": ["header:authorization"],
        "secret": "OPENAI_API_KEY",
    }
    other = f"Authorization: Bearer {placeholders['GH_TOKEN']}"
    ran = understudy("explain", "GET", url, "--header", other, *common)
    assert (ran.code, json.loads(ran.out)["reason"]) == (1, "placeholder_wrong_host")
    ran = understudy("explain", "GET", url, "--header", "Authorization: Bearer sk-mine", *common)
    assert (ran.code, json.loads(ran.out)["reason"]) == (1, "foreign_credential")


def test_nothing_is_written(understudy: Command, policy_file: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    understudy("explain", "GET", "https://x.example", "--policy", policy_file, "--state-dir", state)
    assert not state.exists()


def test_the_gateway_is_the_destination_where_it_stands_in(
    understudy: Command, policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_LLM_GATEWAY_URL", "https://gate.corp.example/llm")
    url = "https://api.openai.com/v1/chat/completions"
    ran = understudy("explain", "POST", url, "--policy", policy_file)
    assert "https://gate.corp.example:443/llm/v1/chat/completions (generic gateway)" in (
        " ".join(ran.out.split())
    )
    as_json = understudy("explain", "POST", url, "--policy", policy_file, "--json")
    assert json.loads(as_json.out)["gateway"] == "generic"


def test_report_mode_lets_pass_and_says_so(understudy: Command, policy_file: Path) -> None:
    policy_file.write_text(policy_file.read_text() + "mode: report\n")
    ran = understudy("explain", "GET", "https://example.com/", "--policy", policy_file)
    assert ran.code == 0
    assert "allowed, host_not_allowed (report mode lets it pass)" in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["GET", "https://api.openai.com/", "--header", "no colon"],
        ["GET", "https://api.openai.com/", "--header", "X: \x1b[31m"],
        ["GET", "https://api.openai.com/ü"],
        ["GÉT", "https://api.openai.com/"],
    ],
)
def test_what_no_client_can_send_is_wrong_usage(
    understudy: Command, policy_file: Path, arguments: list[str]
) -> None:
    ran = understudy("explain", *arguments, "--policy", policy_file)
    assert (ran.code, ran.out) == (2, "")
    assert "\x1b" not in ran.err


def test_a_bad_policy_is_wrong_configuration(understudy: Command, policy_file: Path) -> None:
    policy_file.write_text("version: 2\n")
    ran = understudy("explain", "GET", "https://api.openai.com/", "--policy", policy_file)
    assert (ran.code, ran.out) == (2, "")
    assert f"error {policy_file}:1 version: " in ran.err


def test_a_damaged_placeholder_file_is_a_clear_error(
    understudy: Command, policy_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "placeholders.json").write_text("{")
    url = "https://api.openai.com/"
    ran = understudy("explain", "GET", url, "--policy", policy_file, "--state-dir", tmp_path)
    assert ran.code == 2
    assert "placeholders.json is damaged" in ran.err
