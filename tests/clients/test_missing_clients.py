"""A client that is not on the machine is seen: skipped on a laptop, a failure in CI."""

from __future__ import annotations

import pytest
from tests.clients.conftest import require


def test_missing_client_is_a_skip_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="git: it is not on this machine"):
        require("git", None)


def test_missing_client_is_a_failure_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="git cannot be tested"):
        require("git", None)
