"""What the admin server and probes hear about a running sidecar."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from understudy import VERSION
from understudy.admin.status import (
    PolicyStatus,
    Report,
    describe_connections,
    describe_rules,
)

if TYPE_CHECKING:
    from understudy.engine.sidecar import Sidecar


class SidecarStatus:
    """The sidecar's state, read when asked. Calls no provider."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def look(self) -> None:
        """Find out what the other two tell of, where other processes know it."""
        await self._sidecar.proxy.look()

    def not_ready(self) -> list[str]:
        """Why requests would fail now, a sentence each."""
        sidecar = self._sidecar
        reasons = []
        if sidecar.policies.current is None:
            reasons.append("no policy is in force")
        if sidecar.authority.not_after <= datetime.now(UTC):
            reasons.append("the CA has expired: no client believes the proxy until it is restarted")
        reasons += sidecar.proxy.not_ready()
        if not sidecar.proxy.audit_healthy():
            reasons.append("the audit log cannot be written")
        reasons += [
            f"the secret of connection {name} cannot be had: {state.last_error}"
            for name, state in sidecar.proxy.secrets().items()
            if state.last_error is not None
        ]
        return reasons

    def report(self) -> Report:
        """The state of everything."""
        sidecar = self._sidecar
        problems = sidecar.policies.problems
        return Report(
            version=VERSION,
            uptime_seconds=time.monotonic() - sidecar.started,
            active_connections=sidecar.proxy.open_connections(),
            policy=self._policy(),
            policy_error=str(problems[0]) if problems else None,
            ca_fingerprint=sidecar.authority.fingerprint_sha256,
            ca_expires=sidecar.authority.not_after,
            audit_healthy=sidecar.proxy.audit_healthy(),
        )

    def _policy(self) -> PolicyStatus | None:
        policies = self._sidecar.policies
        policy = policies.current
        if policy is None or policies.loaded_at is None:
            return None
        return PolicyStatus(
            digest=policy.digest,
            mode=policy.mode,
            age_seconds=time.time() - policies.loaded_at,
            rules=describe_rules(policy),
            connections=describe_connections(policy, self._sidecar.proxy.secrets()),
        )
