from __future__ import annotations

from pathlib import Path

from understudy.credentials.names import CREDENTIAL_ENDINGS, CREDENTIAL_NAMES
from understudy.credentials.placeholders import MINIMUM_LENGTH
from understudy.credentials.sources import sources

DOCS = (Path(__file__).parents[2] / "docs" / "credentials.md").read_text()


def test_the_docs_name_every_credential_header_and_parameter() -> None:
    assert [
        name for name in (*CREDENTIAL_ENDINGS, *CREDENTIAL_NAMES) if f"`{name}`" not in DOCS
    ] == []


def test_the_docs_name_every_source_and_limit() -> None:
    assert [name for name in sources({}) if f"`{{{name}: " not in DOCS] == []
    assert f"at least {MINIMUM_LENGTH} characters" in DOCS
