"""YAML text as plain data that remembers the line of every node.

A strict subset: one document, text keys, no tags, no merge keys, nothing twice. Built from parser
events without recursion, within bounds on size, depth and alias expansion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from understudy.policy.problems import Problem

MAX_BYTES = 1024 * 1024
_MAX_NODES = 100_000
_MAX_DEPTH = 20

type Step = str | int
type NodePath = tuple[Step, ...]

_TAG_NAMES = {
    "tag:yaml.org,2002:bool": "the boolean",
    "tag:yaml.org,2002:float": "the number",
    "tag:yaml.org,2002:int": "the number",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "the date",
    "tag:yaml.org,2002:merge": "the merge key",
    "tag:yaml.org,2002:value": "the default key",
}
_STRING = "tag:yaml.org,2002:str"
_NUMBERS = frozenset({"tag:yaml.org,2002:float", "tag:yaml.org,2002:int"})
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|[-+]?\.(?:inf|nan)", re.IGNORECASE)
# Who reviews a policy must see what YAML reads: to YAML these end a line, and a comment with it,
# or they change the order in which an editor shows the text (CVE-2021-42574).
_UNSEEN = re.compile(
    "\r(?!\n)|[\x85\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)


@dataclass(slots=True)
class Tree:
    """One file's data, and where each node of it stands."""

    file: str
    value: object = None
    lines: dict[NodePath, int] = field(default_factory=dict)
    raw: dict[NodePath, str] = field(default_factory=dict)
    """How a scalar that YAML does not read as text was written, and what it was taken for."""
    problems: list[Problem] = field(default_factory=list)
    is_whole: bool = False
    """Whether the text was read to its end."""

    def line(self, path: NodePath) -> int | None:
        """Return the line of a node, or of the nearest node around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def report(self, path: NodePath, message: str) -> None:
        """Add an error about the node at ``path``."""
        self.problems.append(Problem(self.file, self.line(path), write_path(path), message))


def write_path(path: NodePath) -> str:
    """Write a node's path as people do: ``allow[2].methods[0]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_tree(data: bytes, file: str) -> Tree:
    """Read one YAML document; what is wrong with it stands in ``problems`` of the result."""
    tree = Tree(file)
    if len(data) > MAX_BYTES:
        tree.report((), f"the file has {len(data)} bytes; a policy has at most {MAX_BYTES}")
        return tree
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        tree.problems.append(Problem(file, line, "", "the file is not UTF-8 text; save it as such"))
        return tree
    unseen = _UNSEEN.search(text)
    if unseen:
        line = text.count("\n", 0, unseen.start()) + 1
        message = (
            f"the character U+{ord(unseen[0]):04X} stands here: it is not seen, and hides how YAML "
            "reads the text; remove it"
        )
        tree.problems.append(Problem(file, line, "", message))
        return tree
    try:
        _Builder(tree).build(text)
        tree.is_whole = True
    except _StopError as stop:
        tree.problems.append(Problem(file, stop.line, write_path(stop.path), stop.message))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"this is not YAML: {error.problem or 'it cannot be read'}"
        if error.context:
            message += f" ({error.context})"
        tree.problems.append(Problem(file, mark.line + 1 if mark else None, "", message))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        message = "this is not YAML: a character that is not allowed in it (a control character?)"
        tree.problems.append(Problem(file, line, "", message))
    return tree


class _StopError(Exception):
    def __init__(self, line: int, path: NodePath, message: str) -> None:
        super().__init__(message)
        self.line, self.path, self.message = line, path, message


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read yet."""

    value: dict[str, object] | list[object]
    path: NodePath
    anchor: str | None
    nodes_before: int
    key: str | None = None


class _Builder:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[object, int]] = {}
        self._nodes = 0
        self._documents = 0
        self._resolver = Resolver()
        self._constructor = SafeConstructor()

    def build(self, text: str) -> None:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            assert event.start_mark is not None
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise _StopError(line, (), "a second document starts here; a file holds one")
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = self._open.pop()
                if closed.anchor:
                    size = self._nodes - closed.nodes_before
                    self._anchors[closed.anchor] = (closed.value, size)
            elif isinstance(event, yaml.NodeEvent):
                self._count(event, line)
                self._take(event, line)

    def _count(self, event: yaml.NodeEvent, line: int) -> None:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._anchors:
            self._nodes += self._anchors[event.anchor][1]
        if self._nodes > _MAX_NODES:
            raise _StopError(
                line, self._path(), f"more than {_MAX_NODES} values, aliases written out"
            )

    def _take(self, event: yaml.NodeEvent, line: int) -> None:
        parent = self._open[-1] if self._open else None
        if parent and isinstance(parent.value, dict) and parent.key is None:
            parent.key = self._take_key(event, parent, line)
            return
        path = self._path()
        self._tree.lines.setdefault(path, line)
        value = self._construct(event, path, line)
        if parent is None:
            self._tree.value = value
        elif isinstance(parent.value, list):
            parent.value.append(value)
        else:
            assert parent.key is not None
            parent.value.setdefault(parent.key, value)
            parent.key = None
        if isinstance(event, yaml.CollectionStartEvent):
            assert isinstance(value, (dict, list))
            if len(self._open) >= _MAX_DEPTH:
                raise _StopError(line, path, f"nested more than {_MAX_DEPTH} levels deep")
            self._open.append(_Open(value, path, event.anchor, self._nodes))

    def _take_key(self, event: yaml.NodeEvent, parent: _Open, line: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise _StopError(line, parent.path, "a key is text, not a list, a mapping or an alias")
        self._refuse_tag(event, parent.path, line)
        path = (*parent.path, event.value)
        tag = self._tag_of(event)
        if tag == "tag:yaml.org,2002:merge":
            message = "merge keys (<<) are not read in a policy; write the fields out"
            raise _StopError(line, parent.path, message)
        if tag != _STRING:
            written = describe_scalar(tag, event.value)
            self._tree.problems.append(
                Problem(
                    self._tree.file,
                    line,
                    write_path(parent.path),
                    f"a key is text; found {written}: put it in quotes",
                )
            )
        elif path in self._tree.lines:
            self._tree.problems.append(
                Problem(
                    self._tree.file,
                    line,
                    write_path(path),
                    f"{event.value!r} stands here twice, first in line {self._tree.lines[path]}; "
                    "keep one",
                )
            )
        self._tree.lines.setdefault(path, line)
        return event.value

    def _construct(self, event: yaml.NodeEvent, path: NodePath, line: int) -> object:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                message = f"*{event.anchor} names no value that is complete before this line"
                raise _StopError(line, path, message)
            return self._anchors[event.anchor][0]
        self._refuse_tag(event, path, line)
        if isinstance(event, yaml.MappingStartEvent):
            return {}
        if isinstance(event, yaml.SequenceStartEvent):
            return []
        assert isinstance(event, yaml.ScalarEvent)
        value = self._construct_scalar(event, path, line)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        return value

    def _construct_scalar(self, event: yaml.ScalarEvent, path: NodePath, line: int) -> object:
        tag = self._tag_of(event)
        if tag == _STRING:
            return event.value
        self._tree.raw[path] = written = describe_scalar(tag, event.value)
        if tag in _NUMBERS and not _PLAIN_NUMBER.fullmatch(event.value):
            # YAML reads 0443 as 291, 1:30 as 90. It is not shown: here may stand a pasted key.
            message = "write a number in plain digits, without leading 0, 0x, _, :, + and exponent"
            raise _StopError(line, path, message)
        try:
            return self._constructor.construct_object(yaml.ScalarNode(tag, event.value))
        except (ConstructorError, ValueError, OverflowError):
            raise _StopError(line, path, f"found {written}, which is none; quote it") from None

    def _tag_of(self, event: yaml.ScalarEvent) -> str:
        tag: str = self._resolver.resolve(  # type: ignore[no-untyped-call] # untyped in its stubs
            yaml.ScalarNode, event.value, event.implicit
        )
        return tag

    def _refuse_tag(self, event: yaml.NodeEvent, path: NodePath, line: int) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise _StopError(line, path, f"the tag {tag} is not read in a policy; leave it out")

    def _path(self) -> NodePath:
        if not self._open:
            return ()
        parent = self._open[-1]
        step: Step = len(parent.value) if isinstance(parent.value, list) else parent.key or ""
        return (*parent.path, step)


def describe_scalar(tag: str, written: str) -> str:
    """Say what YAML took a plain scalar for, and how it was written."""
    kind = _TAG_NAMES.get(tag, "a value of another type")
    return f"{kind} {written[:40]!r}" if written and tag in _TAG_NAMES else kind


def shape_of(value: object) -> str:
    """Name the kind of a value in a message that must not show the value itself."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "text"
    if value is None:
        return "nothing"
    return "a boolean" if isinstance(value, bool) else "a number"
