"""The policy in force, and how a changed file takes its place: whole and good, or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from understudy.policy.load import load, look
from understudy.policy.problems import PolicyError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from understudy.policy.load import Loaded
    from understudy.policy.model import Policy

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_MOST_UNSETTLED_LOOKS = 10
_RETRY_SECONDS = 5.0
"""After which a rejected policy is read again, though its files are the same."""
_SHARE = 0.01
"""Of the time, at most: what takes long is done more seldom."""


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
        self._others: tuple[Path, ...] = ()
        """Files that the policy in force names, and is read from."""
        self._seen: object = None
        """How the files looked before they were read last."""
        self._before: object = None
        """How they looked a moment ago."""
        self._unsettled_looks = 0
        self._retry_at = 0.0

    def reload(self) -> bool:
        """Read the files; take them in force if they are good, else keep what there is."""
        return self._reload(is_retry=False)

    def _reload(self, *, is_retry: bool) -> bool:
        """As :meth:`reload`; a retry that finds the problems of before tells nobody of them."""
        began = time.monotonic()
        # Looked at before it is read, so that no change is missed.
        self._seen = look(self.path, self._others)
        problems = self._try()
        ended = time.monotonic()
        self._retry_at = ended + max(_RETRY_SECONDS, (ended - began) / _SHARE)
        is_news = not is_retry or problems != self.problems
        self.problems = problems
        if problems and is_news:
            self._on_rejected(problems)
        return not problems

    def _try(self) -> tuple[Problem, ...]:
        """What is wrong with the files; where nothing is, they are in force."""
        try:
            loaded = load(self.path, self._environ)
            unchanged = self.current is not None and loaded.policy.digest == self.current.digest
            if not unchanged:
                self._on_loaded(loaded)
        except PolicyError as error:
            return error.problems
        except Exception as error:  # noqa: BLE001 - the one before stays in force, and it is said
            message = f"reading it failed with {type(error).__name__}"
            return (Problem(str(self.path), None, "", message),)
        if loaded.others != self._others:
            self._others = loaded.others
            self._seen = None  # they were not looked at before they were read
        if not unchanged:
            self.current = loaded.policy
            self.loaded_at = time.time()
        return ()

    def take(self, policy: Policy | None) -> None:
        """Put in force what another process has read and found good."""
        self.current = policy
        self.loaded_at = time.time()

    async def watch(self) -> None:
        """Reload when any file changes that the policy is read from; until it is cancelled.

        It looks. What tells of changes (inotify) misses files behind links, folders that are
        replaced and what other machines write, and there may be no more of it to be had.
        """
        pause_seconds = _LOOK_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            began = time.thread_time()
            try:
                now = look(self.path, self._others)
                pause_seconds = max(_LOOK_SECONDS, (time.thread_time() - began) / _SHARE)
                self._check(now)
            except Exception as error:  # noqa: BLE001 - nobody would see that nobody looks any more
                logger.error("looking at the policy failed with %s", type(error).__name__)  # noqa: TRY400 - one line
                pause_seconds = _RETRY_SECONDS

    def _check(self, now: object) -> None:
        before, self._before = self._before, now
        if now == self._seen:
            self._unsettled_looks = 0
            # What was in the way may have been no file of the policy's: a full disk, say.
            if self.problems and time.monotonic() >= self._retry_at:
                self._reload(is_retry=True)
            return
        self._unsettled_looks += 1
        # Who is still writing is given time, but not for ever.
        if now == before or self._unsettled_looks >= _MOST_UNSETTLED_LOOKS:
            self.reload()
