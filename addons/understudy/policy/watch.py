"""The policy in force, and how a changed file takes its place: whole and good, or not at all."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from watchfiles._rust_notify import RustNotify

from understudy.policy.load import load
from understudy.policy.problems import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from understudy.policy.load import Loaded
    from understudy.policy.model import Policy
    from understudy.policy.problems import Problem

_DEBOUNCE_MILLISECONDS = 50
_STEP_MILLISECONDS = 50
_POLL_MILLISECONDS = 300


class PolicyHolder:
    """Holds the one policy in force. ``current`` is None until a good one was read.

    ``on_loaded`` is called before a new policy takes force and may refuse it by raising;
    ``on_rejected`` is told of the problems of one that does not.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        *,
        on_loaded: Callable[[Loaded], None],
        on_rejected: Callable[[tuple[Problem, ...]], None],
    ) -> None:
        self.path = path
        self.current: Policy | None = None
        self.loaded_at: float | None = None
        """When the current policy was read, seconds since the epoch."""
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the files as they are now; empty where they are in force."""
        self._environ = environ
        self._on_loaded = on_loaded
        self._on_rejected = on_rejected

    def reload(self) -> bool:
        """Read the files; take them in force if they are good, else keep what there is."""
        try:
            loaded = load(self.path, self._environ)
            unchanged = self.current is not None and loaded.policy.digest == self.current.digest
            if not unchanged:
                self._on_loaded(loaded)
        except PolicyError as error:
            self.problems = error.problems
            self._on_rejected(error.problems)
            return False
        if not unchanged:
            self.current = loaded.policy
            self.loaded_at = time.time()
        self.problems = ()
        return True

    def take(self, policy: Policy | None) -> None:
        """Put in force what another process has read and found good."""
        self.current = policy
        self.loaded_at = time.time()

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload when the files change, symlink swaps of a mounted ConfigMap included.

        The folder is watched, not the file: editors and Kubernetes replace what they write.
        """
        is_folder = self.path.is_dir()

        def concerns_policy(changed: str) -> bool:
            name = Path(changed).name
            # `..data` is the link that Kubernetes swaps when a mounted ConfigMap changes.
            return name.startswith("..") or (
                name.endswith(".yaml") if is_folder else name == self.path.name
            )

        folder = self.path if is_folder else self.path.parent
        # What its own loops do, without the library that they wait with.
        with RustNotify(
            [str(folder)],
            False,  # noqa: FBT003 - debug: these have no names
            _must_poll(),
            _POLL_MILLISECONDS,
            False,  # noqa: FBT003 - recursive
            False,  # noqa: FBT003 - ignore_permission_denied
        ) as notify:
            try:
                while True:
                    changes = await asyncio.to_thread(
                        notify.watch, _DEBOUNCE_MILLISECONDS, _STEP_MILLISECONDS, 0, stop
                    )
                    if isinstance(changes, str):  # "stop"; signals are not for that thread
                        return
                    if any(concerns_policy(path) for _, path in changes):
                        self.reload()
            finally:
                stop.set()  # or the thread would go on


def _must_poll() -> bool:
    """Whether nothing tells of changes: as the operator says, or else in Windows' folders (WSL)."""
    told = os.environ.get("WATCHFILES_FORCE_POLLING", "").lower()
    if told:
        return told not in {"false", "disable", "disabled"}
    return "microsoft-standard" in os.uname().release.lower()
