"""`understudy` that adds a line to the file ROOTS whenever it parses the roots for upstreams."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from understudy.cli import main
from understudy.express import contexts

bundle = contexts.upstream_bundle_pem


def noted(*arguments: Any) -> str:
    """The same, noted."""
    with Path(os.environ["ROOTS"]).open("a") as file:
        file.write("parsed\n")
    return bundle(*arguments)


if __name__ == "__main__":
    contexts.upstream_bundle_pem = noted
    main()
