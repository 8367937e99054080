"""A policy file read as far as it goes: its document, and every problem with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from understudy.policy.document import SCHEMA, PolicyDocument
from understudy.policy.problems import nearest
from understudy.policy.tree import shape_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from understudy.policy.tree import NodePath, Tree

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
}
_ENTRY_SECTIONS = frozenset({"connections", "allow", "deny"})
# Where people paste real keys: what was found there is never shown.
_SENSITIVE = frozenset({"secret", "placeholder", "headers", "url", "settings"})
_SHOWN_LENGTH = 60
_SHOWN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,32}")


@dataclass(slots=True)
class Draft:
    """What could be read of one file. Entries with problems are left out of ``document``."""

    tree: Tree
    document: PolicyDocument | None = None
    allow_positions: list[int] = field(default_factory=list)
    """For each entry of ``document.allow`` its position in the file."""
    deny_positions: list[int] = field(default_factory=list)
    broken_connections: set[str] = field(default_factory=set)
    """Names of connections that were left out: rules that use them are not to blame."""
    misspelt: set[NodePath] = field(default_factory=set)
    """Where an unknown field stands: what else seems to be missing there may be just that."""
    hides_connections: bool = False
    """Whether there may be connections whose very names could not be read."""

    def gives(self, section: str) -> bool:
        """Whether the file has the top-level field, good or not."""
        return isinstance(self.tree.value, dict) and section in self.tree.value


def read_draft(tree: Tree) -> Draft:
    """Validate a tree against the schema; problems are added to ``tree.problems``."""
    draft = Draft(tree)
    if not tree.is_whole:
        draft.hides_connections = True
        return draft
    if not isinstance(tree.value, dict):
        found = shape_of(tree.value)
        tree.report((), f"found {found}; expected a policy that begins with version: 1")
        return draft
    errors = _errors_in(tree.value)
    for error in errors:
        _report(tree, error)
    # A field that does not exist is left out alone, so that the rest of its entry is checked too.
    unknown = {error["loc"] for error in errors if error["type"] == "extra_forbidden"}
    draft.misspelt = {path[:-1] for path in unknown}
    data = _without_fields(tree.value, unknown)
    bad: set[NodePath] = set()
    for error in _errors_in(data):
        depth = 2 if error["loc"][0] in _ENTRY_SECTIONS else 1
        bad.add(error["loc"][:depth])
    draft.document = PolicyDocument.model_validate(_without(data, bad))
    draft.hides_connections = ("connections",) in bad
    draft.broken_connections = {
        str(path[1]) for path in bad if path[:1] == ("connections",) != path
    }
    draft.allow_positions = _positions(data, "allow", bad)
    draft.deny_positions = _positions(data, "deny", bad)
    return draft


def _errors_in(data: object) -> list[ErrorDetails]:
    try:
        PolicyDocument.model_validate(data)
    except ValidationError as errors:
        return errors.errors(include_url=False)
    return []


def _without_fields(
    data: dict[str, object], paths: set[NodePath], above: NodePath = ()
) -> dict[str, object]:
    """Return ``data`` without the mapping entries at ``paths``."""

    def clean(value: object, path: NodePath) -> object:
        if isinstance(value, dict):
            return _without_fields(value, paths, path)
        if isinstance(value, list):
            return [clean(each, (*path, index)) for index, each in enumerate(value)]
        return value

    return {
        name: clean(value, (*above, name))
        for name, value in data.items()
        if (*above, name) not in paths
    }


def _positions(data: dict[str, object], section: str, bad: set[NodePath]) -> list[int]:
    entries = data.get(section)
    if not isinstance(entries, list) or (section,) in bad:
        return []
    return [index for index in range(len(entries)) if (section, index) not in bad]


def _without(data: dict[str, object], bad: set[NodePath]) -> dict[str, object]:
    """Return what is left without the entries at ``bad``; it is valid."""
    kept: dict[str, object] = {}
    for section, value in data.items():
        if (section,) in bad:
            continue
        if section not in _ENTRY_SECTIONS:
            kept[section] = value
        elif isinstance(value, dict):
            kept[section] = {name: value[name] for name in value if (section, name) not in bad}
        elif isinstance(value, list):
            good = [each for index, each in enumerate(value) if (section, index) not in bad]
            kept |= {section: good} if good else {}
    return kept | {"version": 1}


def _report(tree: Tree, error: ErrorDetails) -> None:
    path: NodePath = tuple(step for step in error["loc"] if step != "[key]")
    tree.report(path, _message(tree, error, path))


def _message(tree: Tree, error: ErrorDetails, path: NodePath) -> str:
    kind, found = error["type"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(path[-1])
        shown = repr(name) if _SHOWN_KEY.fullmatch(name) else "this"
        return f"there is no field {shown} here.{nearest(name, _fields_at(path[:-1]))}"
    if kind == "missing":
        return "this field is missing"
    if kind == "not_given":
        return "the field is empty: give it a value or leave it out"
    if kind == "too_short":
        return "an empty list never means all: list what is meant, or leave the field out"
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        way_out = _way_out(kind, tree, path, found)
        return f"expected {_EXPECTED[kind]}, found {_show(tree, path, found)}{way_out}"
    if kind == "literal_error":
        expected = str(context["expected"])
        hint = nearest(found, re.findall(r"'([^']+)'", expected)) if isinstance(found, str) else ""
        return f"expected {expected}, found {_show(tree, path, found)}.{hint}"
    return f"{error['msg']}, found {_show(tree, path, found)}"


def _way_out(kind: str, tree: Tree, path: NodePath, found: object) -> str:
    if kind == "string_type" and path in tree.raw and found is not None:
        return ": put it in quotes"
    if kind == "list_type" and isinstance(found, str) and not _is_sensitive(path):
        return f": write [{found[:_SHOWN_LENGTH]}]"
    return ""


def _show(tree: Tree, path: NodePath, found: object) -> str:
    if _is_sensitive(path) or isinstance(found, (dict, list)):
        return shape_of(found)
    if path in tree.raw:
        return tree.raw[path]
    text = repr(found)
    return text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "…"


def _is_sensitive(path: NodePath) -> bool:
    return not path or not _SENSITIVE.isdisjoint(path)


def _fields_at(path: NodePath) -> set[str]:
    """Return the names of the fields that the schema has at ``path``."""
    shape = tuple("*" if i == 1 and path[0] in _ENTRY_SECTIONS else s for i, s in enumerate(path))
    model = SCHEMA.get(shape)
    return set(model.model_fields) if model else set()
