"""What the package takes from mitmproxy, as it was last read; run as a program, it is pinned."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "addons" / "understudy"
PINNED = Path(__file__).parent / "mitmproxy.json"

BEHIND = ("proxy.server", "net.http.http1.read", "net.http.http1.assemble", "net.http.validate")
"""Used through the modules that are imported: base classes, and what is exported elsewhere."""


def modules_used() -> list[str]:
    """Every module of mitmproxy that the package imports from."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    found |= {f"mitmproxy.{name}" for name in BEHIND}
    return sorted(name for name in found if name.split(".")[0] == "mitmproxy" and _file_of(name))


def digest_of(module: str) -> str:
    """The digest of a module's source."""
    file = _file_of(module)
    assert file is not None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _file_of(module: str) -> Path | None:
    # Looked for and not imported: mitmproxy.addons would import all that mitmdump has.
    spec = importlib.util.find_spec("mitmproxy")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    base = Path(spec.submodule_search_locations[0]).joinpath(*module.split(".")[1:])
    files = (base.with_suffix(".py"), base / "__init__.py")
    return next((file for file in files if file.is_file()), None)


if __name__ == "__main__":
    digests = {module: digest_of(module) for module in modules_used()}
    PINNED.write_text(json.dumps(digests, indent=1) + "\n")
