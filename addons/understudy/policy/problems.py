"""What is wrong with a policy, said so that its author finds the place."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (an error) or surely not meant (a warning)."""

    file: str
    """The file's path, or the name of an environment variable."""
    line: int | None
    """Counted from 1; None where no line is to blame."""
    field: str
    """The field's path, for example ``allow[2].methods[0]``; empty for the whole file."""
    message: str
    """What was found, what was expected, and the nearest valid name."""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = f"{self.field}: " if self.field else ""
        return f"{place}: {self.severity}: {field}{self.message}"


class PolicyError(Exception):
    """A policy that cannot be used; ``problems`` holds every error and warning found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(found: str, valid: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` or the list of what is valid, to end a message with."""
    names = sorted(valid)
    close = get_close_matches(found, names, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Valid: {', '.join(names)}." if names else ""
