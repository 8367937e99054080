"""docs/clients.md names every program that the tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
PROGRAMS = sorted(
    file.stem.partition("_")[2]
    for file in (Path(__file__).parent / "programs").iterdir()
    if file.is_file()
)


@pytest.mark.parametrize("program", [*sorted(set(PROGRAMS)), "curl", "wget", "git", "pip", "uv"])
def test_page_names_the_program(program: str) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "tested" in line]
    wanted = {"gemini": "google-genai"}.get(program, program)
    assert any(wanted in row for row in rows)
