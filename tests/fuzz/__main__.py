"""``python -m tests.fuzz TARGET [options of libFuzzer]``: fuzz one target, guided by coverage."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["understudy"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until libFuzzer stops; a broken promise ends the process with a trace."""
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
