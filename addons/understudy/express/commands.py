"""mitmproxy's commands for the express engine, imported once an addon brings one."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mitmproxy.command import CommandManager


class Commands:
    """Stands where a master's ``commands`` do; mitmproxy's own manager once there are any.

    None of the stages has commands, and the parser of their language is a library of its own.
    """

    def __init__(self, master: object) -> None:
        self._master = master

    def collect_commands(self, addon: object) -> None:
        """Take an addon's commands."""
        # Whoever has a command has imported the decorator that makes it one.
        if "mitmproxy.command" in sys.modules:
            self._manager.collect_commands(addon)

    @cached_property
    def _manager(self) -> CommandManager:
        from mitmproxy.command import CommandManager  # noqa: PLC0415 - see above

        return CommandManager(self._master)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
