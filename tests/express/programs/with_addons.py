"""`understudy` with addons of mitmproxy's own, and one that keeps a diary, behind the stages.

HAR and DIARY are files; MODIFY holds one ``modify_headers`` pattern a line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from understudy.cli import main
from understudy.engine import master as mitmproxy_engine
from understudy.express import engine as express_engine

# Behind the engines: they see to it that mitmproxy.addons is cheap to import.
from mitmproxy.addons.modifyheaders import ModifyHeaders  # isort: skip
from mitmproxy.addons.savehar import SaveHar  # isort: skip
from mitmproxy.hooks import all_hooks  # isort: skip


class Diary:
    """Every hook of every kind that is called, by name."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        if name not in all_hooks:
            raise AttributeError(name)

        def note(*_: object) -> None:
            with self._file.open("a") as diary:
                diary.write(name + "\n")

        return note


def extend(engine: Any) -> Any:
    """The engine with more addons, added and set as `mitmdump` does."""

    class Extended(engine):  # type: ignore[misc] # either engine
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.addons.add(ModifyHeaders(), SaveHar(), Diary(Path(os.environ["DIARY"])))
            patterns = os.environ.get("MODIFY", "").splitlines()
            self.options.update(modify_headers=patterns, hardump=os.environ.get("HAR", ""))

    return Extended


if __name__ == "__main__":
    express_engine.Express = extend(express_engine.Express)  # type: ignore[misc] # see extend
    mitmproxy_engine.Master = extend(mitmproxy_engine.Master)  # type: ignore[misc]
    main()
