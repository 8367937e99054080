"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"\btest_\w+")


def defined(folder: str) -> set[str]:
    files = (ROOT / "tests" / folder).glob("test_*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def test_every_named_test_exists() -> None:
    named = set(TEST.findall((ROOT / "docs" / "reliability.md").read_text()))
    assert named
    folders = ["faults", "attacks", "invariants", "workers", "audit", "websocket", "streaming"]
    assert named <= set().union(*map(defined, [*folders, "express"]))
