from __future__ import annotations

import fnmatch
import re

import pytest
import typer
from tests.deploy.manifests import PROXY_USER, ROOT

from understudy.cli import run_command

Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The Dockerfile's stages, build stage first; each a list of (instruction, arguments)."""
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    instructions = [
        (name, arguments) for name, _, arguments in map(split, joined.splitlines()) if name
    ]
    starts = [number for number, (name, _) in enumerate(instructions) if name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def split(line: str) -> tuple[str, str, str]:
    return line.strip().partition(" ")


def arguments_of(stage: list[Instruction], name: str) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


def test_image_runs_understudy_as_a_user_without_rights(stages: list[list[Instruction]]) -> None:
    final = stages[-1]
    assert arguments_of(final, "USER") == [f"{PROXY_USER}:{PROXY_USER}"]
    assert arguments_of(final, "ENTRYPOINT") == ['["understudy"]']
    assert arguments_of(final, "CMD") == ['["run"]']
    [(last_run, _)] = [(number, name) for number, (name, _) in enumerate(final) if name == "RUN"]
    assert last_run < final.index(("USER", f"{PROXY_USER}:{PROXY_USER}"))


def test_final_stage_downloads_and_builds_nothing(stages: list[list[Instruction]]) -> None:
    build, final = stages
    assert "AS build" in build[0][1]
    for command in arguments_of(final, "RUN"):
        assert not re.search(r"\b(pip|uv|apt|curl)\b", command)
    assert arguments_of(final, "COPY") == ["--from=build /opt/understudy /opt/understudy"]


def test_dependencies_come_from_the_lock_with_hashes(stages: list[list[Instruction]]) -> None:
    steps = [step.strip() for run in arguments_of(stages[0], "RUN") for step in run.split("&&")]
    installs = [step for step in steps if "uv pip install" in step]
    locked, own = installs
    assert "--require-hashes" in locked
    assert "--only-binary :all:" in locked
    assert "-r requirements.lock" in locked
    assert "--no-deps" in own
    assert "--no-build-isolation" in own


def test_no_index_is_named(stages: list[list[Instruction]]) -> None:
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    assert "://" not in text
    assert "index" not in text


def test_image_and_make_use_the_same_uv_and_python(stages: list[list[Instruction]]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [uv] = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert f"UV_VERSION={uv}" in arguments_of(stages[0], "ARG")
    python = (ROOT / ".python-version").read_text("ascii").strip()
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    assert re.search(rf"^ARG PYTHON_IMAGE=python:{re.escape(python)}-slim", text, re.MULTILINE)
    assert [stage[0][1].split()[0] for stage in stages] == ["${PYTHON_IMAGE}"] * 2


def test_images_settings_are_variables_that_run_reads(stages: list[list[Instruction]]) -> None:
    run = typer.main.get_command(run_command.app)
    known = {parameter.envvar for parameter in run.params if parameter.envvar}
    named = re.findall(r"\b(UNDERSTUDY_\w+)=", " ".join(arguments_of(stages[-1], "ENV")))
    assert named
    assert set(named) <= known


def test_build_context_holds_what_is_copied_and_no_more(stages: list[list[Instruction]]) -> None:
    lines = (ROOT / ".dockerignore").read_text("ascii").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    admitted = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    copied = {
        source for arguments in arguments_of(stages[0], "COPY") for source in arguments.split()[:-1]
    }
    assert copied == admitted
    for name in copied:
        assert (ROOT / name).exists(), name
    for key in ("certs/ca.key", "deploy/secrets/github-token", ".git/config", ".venv/bin/python"):
        assert not any(fnmatch.fnmatch(key, f"{name}*") for name in admitted)
