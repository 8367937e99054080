"""The ``understudy`` command: one module a command, registered here."""

from __future__ import annotations

from understudy.cli.app import main

__all__ = ["main"]
