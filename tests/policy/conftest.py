"""Policies written as text, loaded from a file of their own."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from understudy.policy.load import load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from understudy.policy.load import Loaded


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[..., Loaded]:
    """``load_text("allow: …", environ)``; ``version: 1`` is put in front."""

    def load_it(text: str, environ: Mapping[str, str] | None = None) -> Loaded:
        path = tmp_path / "policy.yaml"
        path.write_text("version: 1\n" + dedent(text))
        return load(path, environ or {})

    return load_it
