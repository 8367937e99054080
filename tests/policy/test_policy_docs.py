"""docs/policy.md and the policy in the README say what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from understudy.gateways.preset import gateway_presets
from understudy.policy.decide import KNOWN_METHODS
from understudy.policy.document import SCHEMA, SECRET_SOURCES
from understudy.policy.hosts import HostError, HostPattern, canonical_host
from understudy.policy.load import load
from understudy.policy.model import Limits
from understudy.policy.paths import PathError, PathPattern, readings

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/policy.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")

HEADINGS = {
    (): "Top level",
    ("gateway",): "Gateway",
    ("connections", "*"): "Connections",
    ("connections", "*", "secret"): "Secret",
    ("connections", "*", "auth"): "Auth",
    ("allow", "*"): "Allow rules",
    ("deny", "*"): "Deny rules",
    ("upstream",): "Upstream",
    ("limits",): "Limits",
}


def section(heading):
    match = re.search(rf"^##+ {heading}$(.*?)(?=^##+ |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[1]


def rows(heading):
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in section(heading).splitlines()
        if line.startswith("| `")
    ]


@pytest.mark.parametrize("place", SCHEMA, ids="-".join)
def test_every_field_has_its_row_and_every_row_its_field(place):
    documented = [row[0].strip("`") for row in rows(HEADINGS[place])]
    assert documented == list(dict.fromkeys(documented))
    assert set(documented) == set(SCHEMA[place].model_fields)


def test_secret_sources_are_fields_of_the_schema():
    fields = SCHEMA["connections", "*", "secret"].model_fields
    assert {*SECRET_SOURCES, "max_age_seconds"} == set(fields)


def test_defaults_of_limits_are_told():
    told = {row[0].strip("`"): row[2] for row in rows("Limits")}
    for field in dataclasses.fields(Limits):
        default = field.default
        assert told[field.name] == ("null" if default is None else f"{default:g}"), field.name


def test_known_methods_and_gateway_kinds_are_told():
    (methods,) = [row[2] for row in rows("Allow rules") if row[0] == "`methods`"]
    assert set(methods.split(", ")) == KNOWN_METHODS
    (kinds,) = [row[1] for row in rows("Gateway") if row[0] == "`kind`"]
    assert set(re.findall(r"`(\w+)`", kinds)) == set(gateway_presets())


def host_matches(pattern, host):
    try:
        return HostPattern.parse(pattern).matches(canonical_host(host))
    except HostError:
        return False


def path_matches(pattern, path):
    try:
        found = readings(path)
    except PathError:
        return False
    return all(PathPattern.parse(pattern).matches(reading) for reading in found)


@pytest.mark.parametrize(("heading", "matches"), [("Hosts", host_matches), ("Paths", path_matches)])
def test_examples_of_matching_are_true(heading, matches):
    table = rows(heading)
    assert table
    for row in table:
        pattern = row[0].strip("`")
        for cell, expected in zip(row[1:], (True, False), strict=False):
            for example in re.findall(r"`([^`]+)`", cell):
                assert matches(pattern, example) is expected, (pattern, example)


@pytest.mark.parametrize(
    "text",
    re.findall(r"```yaml\n(version: 1\n.*?)```", DOCS + README, re.DOTALL),
    ids=lambda text: str(len(text)),
)
def test_policies_in_the_docs_load_without_a_warning(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    assert load(path, {}).warnings == ()


def test_links_within_the_docs_lead_somewhere():
    headings = re.findall(r"^##+ (.+)$", DOCS, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCS)) <= anchors
