"""Packages of which only a part is used: what their ``__init__`` imports besides stays away."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from contextlib import suppress
from typing import Any


def import_in_parts(name: str) -> None:
    """Register the package ``name`` without running its ``__init__``.

    Each of its modules is imported when it is asked for. Whoever asks the package for another
    name gets the whole of it after all: nothing is missing, it only comes later. A package that
    is imported already stays as it is.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No package named {name!r}", name=name)
    package = importlib.util.module_from_spec(spec)
    load_whole = spec.loader.exec_module

    def find(attribute: str) -> Any:
        if attribute == "__version__":
            with suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(name)
        if attribute.startswith("__") and attribute != "__all__":
            raise AttributeError(attribute)
        if importlib.util.find_spec(f"{name}.{attribute}") is not None:
            return importlib.import_module(f"{name}.{attribute}")
        del package.__getattr__
        load_whole(package)
        return getattr(package, attribute)

    package.__getattr__ = find  # type: ignore[method-assign] # PEP 562
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
