"""Every kept input passes, and a few seconds of guided fuzzing find nothing new."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.targets import CORPUS, TARGETS

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("UNDERSTUDY_FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_passes(name: str) -> None:
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    for file in kept:
        TARGETS[name](file.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_pass(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform"
)
@pytest.mark.parametrize("name", TARGETS)
def test_guided_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    kept = Path(os.environ.get("UNDERSTUDY_FUZZ_KEPT", tmp_path)) / name
    kept.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, str(kept), str(CORPUS / name),
         f"-max_total_time={SECONDS:.0f}", "-max_len=2048", "-timeout=20",
         f"-artifact_prefix={kept}/"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    done = re.search(r"^Done (\d+) runs", run.stderr, re.MULTILINE)
    assert done
    # `make fuzz` shows what passing tests wrote.
    sys.stdout.write(f"{name}: {done[1]} inputs\n")
