"""`understudy version`: what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

from understudy import VERSION
from understudy.cli import options
from understudy.cli.console import make_app, print_json, stdout

app = make_app()


@app.command(epilog="Example: understudy version --json")
def version(
    as_json: options.AsJson = False,
) -> None:
    """Print the versions of Understudy, mitmproxy and Python."""
    versions = {
        "understudy": VERSION,
        "mitmproxy": version_of("mitmproxy"),
        "python": platform.python_version(),
    }
    if as_json:
        print_json(versions)
        return
    for name, number in versions.items():
        stdout.print(f"{name:<11}{number}")
