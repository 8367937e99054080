"""mitmproxy's master with only the addons that are needed, in one visible order."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mitmproxy import master
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.options import Options
from mitmproxy.proxy import layer
from OpenSSL import SSL, crypto

from understudy.engine import http1
from understudy.engine.addons import FailClosedAddonManager
from understudy.engine.closing import Closing
from understudy.engine.layers import NextLayer, Refused
from understudy.engine.options import fix_options
from understudy.engine.ports import cannot_listen
from understudy.engine.refusal import ImmediateRefusal
from understudy.engine.tls import Tls, upstream_context
from understudy.policy.model import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

    from understudy.admin.metrics import Metrics
    from understudy.authority.leaf import LeafIssuer
    from understudy.policy.model import Policy
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Sessions
    from understudy.stages.record import Recorder


_CLOSING_SECONDS = 5.0
_CLOSING_STEP_SECONDS = 0.01


class _LayeredAddonManager(FailClosedAddonManager):
    """Also refuses what only mitmproxy's own core asks of addons."""

    def refuse(self, hook: str, subject: object) -> None:
        """Refuse what a failed hook was about."""
        if isinstance(subject, layer.NextLayer):
            self.refuse_session(self._sessions.find(subject.context.client))
            subject.layer = Refused(subject.context)
        else:
            super().refuse(hook, subject)


class Master(master.Master):
    """The proxy engine: mitmproxy's core, our addon manager, our stages."""

    carries_websockets = False

    def __init__(
        self,
        stages: Sequence[object],
        *,
        sessions: Sessions,
        recorder: Recorder,
        metrics: Metrics,
        policies: PolicyHolder,
        issuer: LeafIssuer,
        listen: tuple[str, int],
        confdir: Path,
    ) -> None:
        super().__init__(Options())
        self.addons = _LayeredAddonManager(self, sessions, recorder, metrics)
        self._listen = listen
        self._sessions = sessions
        self._recorder = recorder
        self._issuer = issuer
        self._proxyserver = Proxyserver()
        self._closing = Closing(
            sessions,
            recorder,
            self._proxyserver.connections,
            lambda: policies.current.limits if policies.current else Limits(),
        )
        self.addons.add(
            self._proxyserver,
            NextLayer(sessions, recorder, self._proxyserver.connections),
            *stages,
            Tls(sessions, issuer, lambda: policies.current),
            ImmediateRefusal(),
            self._closing,
        )
        fix_options(self.options, listen_host=listen[0], listen_port=listen[1], confdir=confdir)
        http1.install(sessions, recorder, lambda: policies.current)

    def follow(self, policy: Policy) -> None:
        """Take over what a policy sets for the engine; its idle time is for new connections."""
        self.options.update(tcp_timeout=max(1, round(policy.limits.idle_timeout_seconds)))
        # Where that fails, each request that needs the roots says so.
        with contextlib.suppress(SSL.Error, crypto.Error):
            upstream_context(policy.upstream.ca_pem, self._issuer.authority)

    async def start(self) -> tuple[str, int]:
        """Listen; returns the address that clients connect to. OSError where it cannot."""
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        if not await self._proxyserver.setup_servers():
            failure = next((s.last_exception for s in self._proxyserver.servers), None)
            raise cannot_listen(self._listen, getattr(failure, "errno", None))
        await self.running()
        host, port, *_ = self._proxyserver.listen_addrs()[0]
        return host, port

    async def stop_listening(self) -> None:
        """Accept no more connections; those that are open go on."""
        self.options.update(server=False)
        await self._proxyserver.servers.update([])

    def close_idle(self) -> bool:
        """Close the connections on which no request is in progress; whether any is still there."""
        for handler in list(self._proxyserver.connections.values()):
            session = self._sessions.find(handler.client)
            if session is None or session.exchange is None or session.exchange.finished:
                self._close(handler)
        return bool(self._proxyserver.connections) or self._closing.has_unread()

    async def close(self) -> None:
        """Close what is still open, and wait until its end is told to every addon."""
        for handler in list(self._proxyserver.connections.values()):
            self._close(handler)
        deadline = asyncio.get_running_loop().time() + _CLOSING_SECONDS
        while self._proxyserver.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - mitmproxy has no event for it
            await asyncio.sleep(_CLOSING_STEP_SECONDS)
        await self.done()

    def _close(self, handler: ProxyConnectionHandler) -> None:
        session = self._sessions.find(handler.client)
        if session is not None:
            self._recorder.time_out(session)
        io = handler.transports.get(handler.client)
        if io is not None and io.handler is not None:
            io.handler.cancel("shutting down")
