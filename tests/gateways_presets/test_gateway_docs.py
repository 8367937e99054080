from __future__ import annotations

from pathlib import Path

import pytest

from understudy.gateways.preset import gateway_presets

DOCS = (Path(__file__).parents[2] / "docs" / "gateways.md").read_text()


@pytest.mark.parametrize("kind", sorted(gateway_presets()))
def test_the_docs_name_all_of_a_gateway(kind: str) -> None:
    preset = gateway_presets()[kind]
    names = [kind, *preset.control_prefixes, *preset.harmless_headers, *preset.refuse_fields]
    assert [name for name in names if f"`{name}`" not in DOCS] == []
    assert [name for name in preset.providers if name not in DOCS.lower()] == []
