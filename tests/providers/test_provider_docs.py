from __future__ import annotations

from pathlib import Path

import pytest

from understudy.providers.preset import provider_presets

DOCS = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()


@pytest.mark.parametrize("name", sorted(provider_presets()))
def test_the_docs_have_a_true_row_for_each_provider(name: str) -> None:
    preset = provider_presets()[name]
    (row,) = [line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |")]
    for text in (*preset.hosts, *preset.variables, *preset.alternative_variables):
        assert text in row
    assert f"{preset.shape.length}" in row
    assert preset.shape.prefix in row
    for variable in preset.base_url_variables:
        assert f"`{variable}`" in DOCS
