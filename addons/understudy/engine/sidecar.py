"""The sidecar, put together: made, started, served, drained and closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from understudy import VERSION
from understudy.admin.metrics import Metrics
from understudy.admin.server import AdminServer
from understudy.audit import events
from understudy.audit.log import AuditLog, AuditUnavailable
from understudy.audit.redaction import hide_placeholders
from understudy.audit.sinks import make_sink
from understudy.authority.ca import Authority
from understudy.authority.pair import AuthorityError
from understudy.authority.trust import sandbox_bundle, upstream_bundle_pem, write_atomic
from understudy.credentials.placeholders import PlaceholderBook, PlaceholderError
from understudy.engine.process import UnsafeProcess, check_state, open_public
from understudy.engine.proxy import Proxy
from understudy.engine.settings import format_address
from understudy.engine.status import SidecarStatus
from understudy.policy.problems import PolicyError, Problem
from understudy.policy.watch import PolicyHolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from understudy.audit.sinks import Sink
    from understudy.engine.proxy import Serving
    from understudy.engine.settings import Settings
    from understudy.policy.load import Loaded
    from understudy.policy.model import Policy

logger = logging.getLogger(__name__)

START_ERRORS = (AuthorityError, AuditUnavailable, UnsafeProcess, OSError)
"""What starting may raise; each has a sentence for the operator."""


class Sidecar:
    """One proxy. ``async with Sidecar(settings) as sidecar:`` serves until the block ends.

    ``sink`` and ``authority`` stand in for what the settings name, ``make_proxy`` for serving in
    this process. Making it has no side effects; starting it may raise one of START_ERRORS, each
    with a sentence for the operator.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        fresh_placeholders: bool = False,
        sink: Sink | None = None,
        metrics: Metrics | None = None,
        authority: Authority | None = None,
        make_proxy: Callable[[Sidecar], Serving] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.audit = AuditLog(
            sink or make_sink(settings.audit),
            settings.audit_failure,
            self.metrics.audit_event,
            redact=lambda line: hide_placeholders(line, self.placeholders.current),
        )
        self.placeholders = PlaceholderBook(
            None if fresh_placeholders else settings.state_dir / "placeholders.json"
        )
        self.policies = PolicyHolder(
            settings.policy,
            settings.environ,
            on_loaded=self._on_policy_loaded,
            on_rejected=self._on_policy_rejected,
        )
        self.proxy = (make_proxy or _serve_here)(self)
        self.authority: Authority
        self._given_authority = authority
        self.ca_cert = settings.state_dir / "public" / "ca.crt"
        self.bundle = settings.state_dir / "public" / "bundle.pem"
        self.admin_address: tuple[str, int] | Path | None = None
        self._admin: AdminServer | None = None
        self._resources = AsyncExitStack()
        self._published: str | None = None
        """The bundle as it was written last."""
        self._is_ready = False
        self.started = time.monotonic()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def _start(self) -> None:
        self.authority = self._given_authority or open_authority(self.settings)
        self.metrics.set_ca_expiry(self.authority.not_after)
        self.audit.start()
        self._resources.callback(self.audit.close)
        # The last line: what closing breaks off has been told of before.
        self._resources.callback(self._say_stopped)
        self._publish_certificate()
        if not self.policies.reload():
            self._publish_bundle(None)
        watcher = asyncio.create_task(self.policies.watch())
        self._resources.push_async_callback(_end, watcher)
        # Before the proxy, which must know the port that nobody may reach through it.
        await self._start_admin()
        self._resources.push_async_callback(self.proxy.close)
        await self.proxy.start(self.authority, self._admin_port())
        self._say_ready()
        self._write_ready_file()

    async def _start_admin(self) -> None:
        if self.settings.admin is None:
            return
        self._admin = AdminServer(
            SidecarStatus(self), self.metrics, self.settings.admin, token=self.settings.admin_token
        )
        self.admin_address = await self._admin.start()
        self._resources.push_async_callback(self._admin.close)

    def _admin_port(self) -> int | None:
        return self.admin_address[1] if isinstance(self.admin_address, tuple) else None

    # -- the policy

    def _on_policy_loaded(self, loaded: Loaded) -> None:
        extra_roots = loaded.policy.upstream.ca_pem
        try:
            upstream_bundle_pem(extra_roots, own=self.authority)
        except AuthorityError as error:
            raise _refused(self.settings.policy, "upstream.ca_file", error) from None
        try:
            self._publish_bundle(extra_roots)
        except OSError as error:
            raise _refused(self.bundle, "", error) from None
        try:
            self.placeholders.adopt(loaded.policy)
        except (PlaceholderError, OSError) as error:
            raise _refused(self.settings.state_dir / "placeholders.json", "", error) from None
        self.metrics.prepare(loaded.policy)
        self.proxy.follow(loaded.policy, lambda: self._tell_of(loaded.policy))

    def _tell_of(self, policy: Policy) -> None:
        self.metrics.policy_loaded(policy.digest)
        self._say(events.policy_loaded(policy))
        if self.settings.engine != "express":
            for name in dict.fromkeys(rule.name for rule in policy.allow if rule.websocket):
                logger.warning("rule %s: websocket has no effect without --engine express", name)

    def _on_policy_rejected(self, problems: tuple[Problem, ...]) -> None:
        self.metrics.policy_rejected()
        kept = self.policies.current
        event = events.policy_rejected(problems, kept_digest=kept.digest if kept else None)
        self.proxy.follow(None, lambda: self._say(event))

    # -- files for others

    def _publish_certificate(self) -> None:
        """Write what a sandbox needs to trust this proxy: certificates only, never a key."""
        open_public(self.ca_cert.parent)
        write_atomic(self.ca_cert, self.authority.cert_pem)

    def _publish_bundle(self, extra_roots: str | None) -> None:
        """Write the certificate once more among all roots; again where a policy adds others."""
        bundle = sandbox_bundle(self.authority, extra_roots)
        if bundle != self._published:
            write_atomic(self.bundle, bundle)
            self._published = bundle

    def _write_ready_file(self) -> None:
        if self.settings.ready_file is None:
            return
        facts = {
            "proxy": format_address(self.proxy.address),
            "admin": self._admin_text(),
            "ca_cert": str(self.ca_cert),
            "bundle": str(self.bundle),
        }
        write_atomic(self.settings.ready_file, json.dumps(facts) + "\n")

    def _admin_text(self) -> str | None:
        admin = self.admin_address
        if admin is None:
            return None
        return format_address(admin) if isinstance(admin, tuple) else f"unix:{admin}"

    # -- the end

    async def drain(self) -> None:
        """Accept nothing new, and let requests in progress end within the drain time."""
        await self.proxy.drain()

    def reopen(self) -> None:
        """Read the policy again and open the audit file again (SIGHUP)."""
        self.audit.reopen()
        self.proxy.reopen()
        self.policies.reload()

    # -- the audit's lines about the proxy itself

    def _say(self, event: events.Event) -> None:
        """Write a line that no request waits for; a sink that fails shows in its metric."""
        with contextlib.suppress(AuditUnavailable):
            self.audit.write(event)

    def _say_ready(self) -> None:
        self._is_ready = True
        policy = self.policies.current
        self._say(
            events.proxy_ready(
                proxy=format_address(self.proxy.address),
                admin=self._admin_text(),
                version=VERSION,
                ca_fingerprint=self.authority.fingerprint_sha256,
                policy_digest=policy.digest if policy else None,
            )
        )

    def _say_stopped(self) -> None:
        if self._is_ready:
            self._say(events.proxy_stopped(uptime_seconds=time.monotonic() - self.started))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _serve_here(sidecar: Sidecar) -> Proxy:
    return Proxy(
        sidecar.settings,
        audit=sidecar.audit,
        metrics=sidecar.metrics,
        policies=sidecar.policies,
        placeholders=sidecar.placeholders,
    )


def open_authority(settings: Settings) -> Authority:
    """The CA that the settings name, made where there is none; raises one of START_ERRORS."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_state(settings.state_dir)
    if settings.ca_cert and settings.ca_key:
        return Authority.from_files(settings.ca_cert, settings.ca_key)
    return Authority.load_or_create(settings.state_dir)


def _refused(place: Path, field: str, error: Exception) -> PolicyError:
    """A policy that cannot take force, whatever its files say."""
    return PolicyError((Problem(str(place), None, field, str(error), "error"),))
