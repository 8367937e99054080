"""What serves agents: the stages and an engine. Which policy is in force it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from understudy.admin.status import SecretState
from understudy.audit import events
from understudy.audit.log import AuditLog, AuditUnavailable
from understudy.authority.leaf import LeafIssuer
from understudy.credentials.resolver import Resolver
from understudy.credentials.scrub import forms_of
from understudy.engine.dialer import Dialer
from understudy.engine.failures import tell_of_failure
from understudy.engine.kinds import ENGINES
from understudy.engine.process import settle_memory
from understudy.stages import stages
from understudy.stages.exchange import Sessions
from understudy.stages.record import Recorder
from understudy.stages.scrub import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from understudy.admin.metrics import Metrics
    from understudy.authority.ca import Authority
    from understudy.credentials.placeholders import PlaceholderBook
    from understudy.engine.master import Master
    from understudy.engine.settings import Settings
    from understudy.express.engine import Express
    from understudy.policy.model import Policy
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Census

_DRAIN_STEP_SECONDS = 0.05


class Serving(Protocol):
    """What a sidecar needs of whatever serves agents: this process, or others."""

    @property
    def address(self) -> tuple[str, int]:
        """Where agents connect."""

    async def start(self, authority: Authority, admin_port: int | None) -> None:
        """Serve; no request is ever sent to ``admin_port``. OSError where it cannot."""

    def follow(self, policy: Policy | None, tell: Callable[[], None]) -> None:
        """Take a policy in force; ``tell`` of it when nothing is decided by the one before.

        None: there is no other, and what is told only has its turn after what came before.
        """

    def reopen(self) -> None:
        """Look at the audit's destination anew, where it is not this process that writes."""

    async def look(self) -> None:
        """Find out what the next four tell of."""

    def not_ready(self) -> list[str]:
        """Why requests would fail now, a sentence each; policy, secrets and audit left out."""

    def audit_healthy(self) -> bool:
        """Whether the next line can be written, as far as is known."""

    def secrets(self) -> Mapping[str, SecretState]:
        """What is known about each connection's secret."""

    def open_connections(self) -> int:
        """How many client connections are open."""

    async def drain(self) -> None:
        """Accept nothing new, and let requests in progress end within the drain time."""

    async def close(self) -> None:
        """End what is still open."""


class Proxy:
    """Serves in this process. ``policies`` and ``placeholders`` are looked at for each request."""

    def __init__(
        self,
        settings: Settings,
        *,
        audit: AuditLog,
        metrics: Metrics,
        policies: PolicyHolder,
        placeholders: PlaceholderBook,
        census: Census | None = None,
    ) -> None:
        self.address = settings.listen
        self.sessions = Sessions(census)
        self._settings = settings
        self._audit = audit
        self._metrics = metrics
        self._policies = policies
        self._recorder = Recorder(audit, metrics)
        self._placeholders = placeholders
        self._resolver = Resolver(settings.environ, on_event=self._on_secret)
        self._dialer = Dialer(lambda: self._own_ports)
        self._own_ports: list[int] = []
        self._engine: Master | Express | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._is_listening = False

    async def start(self, authority: Authority, admin_port: int | None) -> None:
        """Listen and serve, and ask for every secret once. OSError where it cannot listen."""
        self._own_ports = [self._settings.listen[1]]
        if admin_port is not None:
            self._own_ports.append(admin_port)
        _quiet_libraries()
        asyncio.get_running_loop().set_exception_handler(tell_of_failure)
        make = ENGINES[self._settings.engine]().master
        engine = make(
            stages(
                sessions=self.sessions,
                policies=self._policies,
                recorder=self._recorder,
                placeholders=self._placeholders,
                resolver=self._resolver,
                dialer=self._dialer,
                caller_token=self._settings.caller_token,
                carries_websockets=make.carries_websockets,
            ),
            sessions=self.sessions,
            recorder=self._recorder,
            metrics=self._metrics,
            policies=self._policies,
            issuer=LeafIssuer(authority),
            listen=self._settings.listen,
            confdir=self._settings.state_dir,
        )
        self.address = await engine.start()
        self._own_ports.append(self.address[1])
        self._engine = engine
        self._is_listening = True
        policy = self._policies.current
        if policy is not None:
            engine.follow(policy)
            await self._fetch_secrets(policy)
        settle_memory()

    def follow(self, policy: Policy | None, tell: Callable[[], None]) -> None:
        """Take over what the engine itself needs of a policy that takes force now."""
        tell()
        if policy is not None and self._engine is not None:
            self._engine.follow(policy)
            # Once the policy is in force: what is heard of its secrets is told by its names.
            asyncio.get_running_loop().call_soon(self._fetch_later, policy)

    def reopen(self) -> None:
        """Do nothing: the audit is this process's own."""

    async def look(self) -> None:
        """Do nothing: all is known here."""

    def not_ready(self) -> list[str]:
        """Why no request could come in."""
        return [] if self._is_listening else ["the proxy's port does not accept connections"]

    def audit_healthy(self) -> bool:
        """Whether the next line can be written, as far as is known."""
        return self._audit.healthy

    def secrets(self) -> dict[str, SecretState]:
        """What is known about the secrets of the policy in force."""
        policy = self._policies.current
        return {
            name: SecretState(status.age_seconds, status.last_error)
            for name, status in self._resolver.status().items()
            if policy is not None and name in policy.connections
        }

    def open_connections(self) -> int:
        """How many client connections are open."""
        return len(self.sessions)

    async def drain(self) -> None:
        """Accept nothing new, and let requests in progress end within the drain time."""
        assert self._engine is not None
        self._is_listening = False
        await self._engine.stop_listening()
        deadline = asyncio.get_running_loop().time() + self._settings.drain_seconds
        # An open tunnel is a way for new requests too; who reads slowly gets all of an answer.
        # An event set at every request's end would cost each of them more than this costs once.
        while self._engine.close_idle() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_DRAIN_STEP_SECONDS)

    async def close(self) -> None:
        """End what is still open, and see that the audit hears of it."""
        if self._engine is not None:
            await self._engine.close()

    def _fetch_later(self, policy: Policy) -> None:
        self._fetching = asyncio.create_task(self._fetch_secrets(policy))

    async def _fetch_secrets(self, policy: Policy) -> None:
        """Ask for every secret once, so that readiness knows and the first request is quick."""
        connections = policy.connections.values()
        wanted = [self._resolver.resolve(c) for c in connections if c.secret is not None]
        await asyncio.gather(*wanted, return_exceptions=True)
        for connection in connections:
            # What its responses are searched for takes milliseconds to make; it is kept.
            forms_of(guard([connection], self._resolver, self._placeholders))

    def _on_secret(self, result: str, connection: str, source: str, detail: str | None) -> None:
        self._metrics.secret_refreshed(source, result)
        policy = self._policies.current
        bound = policy.connections.get(connection) if policy else None
        name = bound.secret.label if bound and bound.secret else None
        event = (
            events.secret_refreshed(connection=connection, secret=name, source=source)
            if result == "refreshed"
            else events.secret_failed(
                connection=connection, secret=name, source=source, detail=detail
            )
        )
        # No request waits for this line; a sink that fails shows in its metric.
        with contextlib.suppress(AuditUnavailable):
            self._audit.write(event)


def _quiet_libraries() -> None:
    """Keep logs that quote addresses, peers' bytes and arguments off standard error."""
    for name in ("mitmproxy", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
