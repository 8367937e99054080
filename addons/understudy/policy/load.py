"""Policy files from disk: one file or a folder, whole and consistent, or every problem at once."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.policy.assembly import Assembly
from understudy.policy.draft import read_draft
from understudy.policy.gateway import KIND_VARIABLE, URL_VARIABLE
from understudy.policy.lint import lint
from understudy.policy.problems import PolicyError, Problem
from understudy.policy.tree import MAX_BYTES, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from understudy.policy.model import Policy

__all__ = ["Loaded", "PolicyError", "Problem", "load", "look"]

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy, and what was noticed while it was read."""

    policy: Policy
    warnings: tuple[Problem, ...]
    files: tuple[Path, ...]
    """The policy's, in order."""
    others: tuple[Path, ...]
    """What they name and is read with them: the ``ca_file``."""


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read the policy in a file, or in a folder's ``*.yaml`` files merged in name order.

    Of ``environ`` only ``UNDERSTUDY_LLM_GATEWAY_URL`` and ``UNDERSTUDY_LLM_GATEWAY_KIND`` are
    read. Files and folders whose names begin with a dot are ignored, which is how Kubernetes
    keeps the versions of a mounted ConfigMap. Raises :class:`PolicyError` with every problem; no
    other exception for anything in the files or the file system.
    """
    files, warnings = _read(path)
    trees = [read_tree(data, str(file)) for file, data in files.items()]
    drafts = [read_draft(tree) for tree in trees]
    folder = path if path.is_dir() else path.parent
    assembly = Assembly(drafts, folder.absolute(), environ, _read_bounded)
    policy = assembly.assemble(lambda: _digest(files | assembly.extra_files, environ))
    problems = [problem for tree in trees for problem in tree.problems] + assembly.problems
    if any(problem.severity == "error" for problem in problems):
        raise PolicyError(_in_order(problems, files))
    for finding in lint(policy):
        file, line, field = assembly.place_of(finding.section, finding.name)
        warnings.append(Problem(file, line, field, finding.message, "warning"))
    return Loaded(
        policy,
        tuple(warnings + _in_order(assembly.problems, files)),
        tuple(files),
        tuple(assembly.extra_files),
    )


def look(path: Path, others: Iterable[Path]) -> object:
    """Something that is equal as long as the policy at ``path`` and ``others`` are the same files.

    Files behind links included. Quick, as it reads none of them, and never raises.
    """
    try:
        names, _ = _names(path)
    except PolicyError as error:
        return error.problems
    return [_state(file) for file in (*names, *others)]


def _in_order(problems: list[Problem], files: Mapping[Path, bytes]) -> list[Problem]:
    order = {str(file): position for position, file in enumerate(files)}
    return sorted(
        dict.fromkeys(problems), key=lambda each: (order.get(each.file, -1), each.line or 0)
    )


def _read(path: Path) -> tuple[dict[Path, bytes], list[Problem]]:
    """Return one consistent state of the files: read again where they changed meanwhile."""
    for _ in range(_ATTEMPTS):
        names, warnings = _names(path)
        before = [_state(name) for name in names]
        files = {name: _read_policy(name) for name in names}
        if before == [_state(name) for name in _names(path)[0]]:
            return files, warnings
    raise PolicyError([Problem(str(path), None, "", "the files kept changing while being read")])


def _names(path: Path) -> tuple[list[Path], list[Problem]]:
    try:
        if not path.is_dir():
            return [path], []
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise _unreadable(path, error) from None
    names = [entry for entry in entries if entry.suffix == ".yaml" and not entry.is_dir()]
    if not names:
        message = "the folder holds no policy: no file in it is named *.yaml"
        raise PolicyError([Problem(str(path), None, "", message)])
    warnings = [
        Problem(str(entry), None, "", "this file is not read: name it *.yaml", "warning")
        for entry in entries
        if entry.suffix == ".yml"
    ]
    return names, warnings


def _state(file: Path) -> tuple[str, int, int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return str(file), 0, 0, 0, 0
    # Not the time of modification, which whoever writes a file may set as well.
    changed, size = status.st_ctime_ns, status.st_size
    return str(file), status.st_dev, status.st_ino, changed, size


def _read_policy(file: Path) -> bytes:
    try:
        return _read_bounded(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _read_bounded(file: Path) -> bytes:
    """Read a regular file that is not larger than a policy may be; raises OSError."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file")
    with file.open("rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES} bytes")
    return data


def _unreadable(path: Path, error: OSError) -> PolicyError:
    message = f"the policy cannot be read: {error.strerror or 'the path cannot be followed'}"
    return PolicyError([Problem(str(path), None, "", message)])


def _digest(files: Mapping[Path, bytes], environ: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    parts = [part for file, data in files.items() for part in (os.fsencode(file.name), data)]
    if environ.get(URL_VARIABLE):
        parts += [environ.get(name, "").encode() for name in (URL_VARIABLE, KIND_VARIABLE)]
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return f"sha256:{digest.hexdigest()}"
