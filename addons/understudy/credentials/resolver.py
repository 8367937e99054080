"""Secrets when they are needed: cached, refreshed, and never older than the policy allows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from understudy.credentials.secret import Secret
from understudy.credentials.sources import SecretError, sources

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from understudy.credentials.sources import Source
    from understudy.policy.model import Connection, SecretReference

    type OnEvent = Callable[[Literal["refreshed", "failed"], str, str, str | None], None]
    """(result, connection, source, why it failed)"""


class SecretUnavailable(Exception):  # noqa: N818 - named after the reason code that it becomes
    """A connection's secret cannot be had now; the text says why, without the value."""


@dataclass(frozen=True, slots=True)
class SecretStatus:
    """What is known about one connection's secret, without the secret."""

    age_seconds: float | None
    """Since it was read; None where it never was."""
    last_error: str | None
    """Why the last attempt failed; None where it did not."""


@dataclass(frozen=True, slots=True)
class _Cached:
    secret: Secret
    version: object
    read_at: float


class Resolver:
    """Resolves connections' secrets. Used from one event loop.

    ``on_event`` hears of the first value, of every change, and of a failure when it begins or its
    cause changes; not of every request.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        on_event: OnEvent | None = None,
        by_source: Mapping[str, Source] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources(environ) if by_source is None else by_source
        self._on_event = on_event
        self._clock = clock
        self._cached: dict[SecretReference, _Cached] = {}
        self._known: dict[str, tuple[Secret, ...]] = {}
        self._errors: dict[SecretReference, str] = {}
        self._running: dict[SecretReference, asyncio.Task[Secret]] = {}
        self._references: dict[str, SecretReference] = {}

    def peek(self, connection: Connection) -> Secret | None:
        """The secret if it is at hand and fresh; None: :meth:`resolve` it."""
        reference = connection.secret
        cached = self._cached.get(reference) if reference else None
        if reference is None or cached is None:
            return None
        if self._clock() - cached.read_at >= reference.max_age_seconds:
            return None
        version = self._sources[reference.source].version(reference.locator)
        return cached.secret if version is not None and version == cached.version else None

    async def resolve(self, connection: Connection) -> Secret:
        """The secret, fetched if need be. Raises :class:`SecretUnavailable`.

        Requests that want the same secret wait for one fetch; one that is cancelled does not
        cancel it for the others.
        """
        reference = connection.secret
        if reference is None:
            raise SecretUnavailable(f"connection {connection.name} has no secret")
        self._references[connection.name] = reference
        if (secret := self.peek(connection)) is not None:
            return secret
        task = self._running.get(reference)
        if task is None:
            task = asyncio.create_task(self._fetch(reference, connection.name))
            self._running[reference] = task
            task.add_done_callback(lambda done: self._forget(reference, done))
        return await asyncio.shield(task)

    def known(self, connection: Connection) -> tuple[Secret, ...]:
        """The secret that was read last, and the one before it: to scrub them, never to send them.

        However old they are. What was sent is known; of secrets that changed without a call of
        this in between, only the last.
        """
        known = self._known.get(connection.name, ())
        cached = self._cached.get(connection.secret) if connection.secret else None
        if cached is not None and (not known or known[0] is not cached.secret):
            secret = cached.secret
            known = (secret, *[other for other in known if other != secret][:1])
            self._known[connection.name] = known
        return known

    def status(self) -> Mapping[str, SecretStatus]:
        """The state of every connection's secret that was ever asked for, by connection."""
        now = self._clock()
        return {
            name: SecretStatus(
                age_seconds=now - cached.read_at
                if (cached := self._cached.get(reference))
                else None,
                last_error=self._errors.get(reference),
            )
            for name, reference in self._references.items()
        }

    async def _fetch(self, reference: SecretReference, connection: str) -> Secret:
        try:
            fetched = await self._sources[reference.source].fetch(reference.locator)
        except SecretError as error:
            self._failed(reference, connection, str(error))
            raise SecretUnavailable(str(error)) from None
        secret = Secret(fetched.value, reference.label)
        before = self._cached.get(reference)
        recovered = self._errors.pop(reference, None) is not None
        self._cached[reference] = _Cached(secret, fetched.version, self._clock())
        if (before is None or before.secret != secret or recovered) and self._on_event:
            self._on_event("refreshed", connection, reference.source, None)
        return secret

    def _failed(self, reference: SecretReference, connection: str, detail: str) -> None:
        if self._errors.get(reference) == detail:
            return
        self._errors[reference] = detail
        if self._on_event:
            self._on_event("failed", connection, reference.source, detail)

    def _forget(self, reference: SecretReference, done: asyncio.Task[Secret]) -> None:
        self._running.pop(reference, None)
        if not done.cancelled():
            # Read, so that a failure that nobody waited for is not reported by asyncio.
            done.exception()
