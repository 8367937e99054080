"""`understudy` that writes the names of what it has imported, at its end, to the file MODULES."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

from understudy.cli import main

if __name__ == "__main__":
    own = os.getpid()

    def write() -> None:
        if os.getpid() == own:
            Path(os.environ["MODULES"]).write_text("\n".join(sys.modules))

    atexit.register(write)
    main()
