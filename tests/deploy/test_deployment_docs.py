from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.deploy.manifests import ROOT

DOCUMENTS = [ROOT / "docs/deployment.md", ROOT / "helm/understudy/README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in targets:
        path, _, anchor = target.partition("#")
        if path:
            assert (document.parent / path).exists(), target
        else:
            assert anchor in headings, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_repository_path_in_a_command_exists(document: Path) -> None:
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", document.read_text("utf-8"), re.DOTALL))
    paths = re.findall(r"(?<![\w/])(?:deploy|helm)/[\w./-]+", commands)
    assert paths
    for path in paths:
        # `deploy/understudy` is kubectl's short name of the Deployment.
        assert path == "deploy/understudy" or (ROOT / path).exists(), path
