"""Packages that are imported in parts: light, and whole for whoever wants the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[[str], str]

# What the libraries have in their package's own namespace; a version that moves it is seen here.
WHOLE = {
    "aiohttp": "ClientSession",
    "mitmproxy.addons": "default_addons",
    "mitmproxy_rs": "udp.open_udp_connection",
    "ruamel.yaml": "YAML",
    "wsproto": "WSConnection",
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program in a process of its own, beside a package ``heavy``; gives what it prints."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text(
        "print('whole')\nfrom heavy.far import distance\n__all__ = ['distance']\nmark = 1\n"
    )
    (tmp_path / "heavy" / "near.py").write_text("print('near')\nplace = 'here'\n")
    (tmp_path / "heavy" / "far.py").write_text("print('far')\ndistance = 7\n")

    def run_it(program: str) -> str:
        head = "from understudy.parts import import_in_parts\n"
        command = [sys.executable, "-c", head + program]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_it


@pytest.mark.parametrize(
    "wish",
    [
        "import heavy.near; print(heavy.near.place)",
        "from heavy import near; print(near.place)",
        "from heavy.near import place; print(place)",
        "import heavy; print(heavy.near.place)",
    ],
)
def test_a_module_is_had_without_its_package(run: Run, wish: str) -> None:
    assert run(f"import_in_parts('heavy')\n{wish}").split() == ["near", "here"]


@pytest.mark.parametrize(
    "wish",
    [
        "import heavy; print(heavy.distance)",
        "from heavy import distance; print(distance)",
        "from heavy import *; print(distance)",
        "import heavy; print(heavy.mark * heavy.distance)",
    ],
)
def test_any_other_name_brings_the_whole_package(run: Run, wish: str) -> None:
    assert run(f"import_in_parts('heavy')\n{wish}").split() == ["whole", "far", "7"]


def test_a_name_that_is_nowhere_is_no_attribute(run: Run) -> None:
    printed = run(
        "import_in_parts('heavy')\nimport heavy\n"
        "print(hasattr(heavy, '__wrapped__'), hasattr(heavy, '__version__'))\n"
        "print(hasattr(heavy, 'nothing'), hasattr(heavy, 'nothing'))"
    )
    assert printed.split() == ["False", "False", "whole", "far", "False", "False"]


def test_what_is_imported_already_stays(run: Run) -> None:
    assert run("import heavy\nimport_in_parts('heavy')\nprint(heavy.mark)").split()[-1] == "1"


def test_a_package_that_is_not_there_is_an_import_error(run: Run) -> None:
    printed = run(
        "try:\n    import_in_parts('heavier')\nexcept ImportError as error:\n    print(error.name)"
    )
    assert printed == "heavier\n"


@pytest.mark.parametrize("name", WHOLE)
def test_the_libraries_that_are_imported_in_parts_can_be_had_whole(run: Run, name: str) -> None:
    program = (
        "import understudy.admin, understudy.engine, understudy.policy, sys\n"
        f"before = len(sys.modules)\nimport {name}\nassert len(sys.modules) == before\n"
        f"print(callable({name}.{WHOLE[name]}), len(sys.modules) > before)"
    )
    assert run(program).split() == ["True", "True"]
