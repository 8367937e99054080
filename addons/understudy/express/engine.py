"""The express engine, put together: its master, its listening socket, its conversations."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING

from mitmproxy import ctx, hooks, http, log
from mitmproxy.connection import ConnectionState
from mitmproxy.options import Options

from understudy.engine.addons import FailClosedAddonManager
from understudy.engine.failures import log_failure
from understudy.engine.ports import cannot_listen
from understudy.express.commands import Commands
from understudy.express.contexts import ServerContexts, upstream_context
from understudy.express.conversation import Conversation
from understudy.express.outbox import Outbox
from understudy.express.pool import Pool
from understudy.express.stream import Stream
from understudy.policy.model import Limits
from understudy.wire.head import HeadReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from understudy.admin.metrics import Metrics
    from understudy.authority.leaf import LeafIssuer
    from understudy.policy.model import Policy
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Sessions
    from understudy.stages.record import Recorder

_SWEEP_SECONDS = 5.0
_CLOSING_SECONDS = 5.0
_BACKLOG = 1024
_NO_LIMITS_YET = Limits()


class Express:
    """Stands where mitmproxy's master does, for its addons, with a network side of its own.

    It is none itself: the master's module imports every addon of mitmproxy, web pages included.
    """

    carries_websockets = True

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
        del confdir  # mitmproxy's own engine wants one
        self.event_loop = asyncio.get_running_loop()
        self.should_exit = asyncio.Event()
        self.options = Options()
        self.commands = Commands(self)
        self.log = log.Log(self)
        ctx.master = self  # type: ignore[assignment] # what addons know of a master is here
        ctx.options = self.options
        ctx.log = self.log
        self.hooks = FailClosedAddonManager(self, sessions, recorder, metrics)
        self.addons = self.hooks
        self.hooks.add(*stages)
        self.sessions = sessions
        self.recorder = recorder
        self.policies = policies
        self.heads = HeadReader()
        self.outbox = Outbox()
        self.pool = Pool(
            self.outbox, _NO_LIMITS_YET.max_connections_per_upstream, metrics.upstream_waited
        )
        self.server_contexts = ServerContexts(issuer)
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._conversations: set[Conversation] = set()
        self._idle_seconds = _NO_LIMITS_YET.idle_timeout_seconds
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def limits(self) -> Limits:
        """The budgets of the policy in force."""
        policy = self.policies.current
        return policy.limits if policy else _NO_LIMITS_YET

    def follow(self, policy: Policy) -> None:
        """Take over what a policy sets for the engine; no request waits for what that takes."""
        self._idle_seconds = policy.limits.idle_timeout_seconds
        self.pool.set_cap(policy.limits.max_connections_per_upstream)
        # What no request can use any more, and what it was worked out from, is let go.
        self.pool.retire(policy.digest)
        self.heads = HeadReader()
        # Parses some 140 roots. Where that fails, each request that needs them says so.
        with contextlib.suppress(ssl.SSLError):
            upstream_context(policy.upstream.ca_pem)

    async def start(self) -> tuple[str, int]:
        """Listen; returns the address that clients connect to. OSError where it cannot."""
        # A type check of every field of every message, which costs more than making it.
        http.MessageData.__post_init__ = lambda _: None  # type: ignore[method-assign] # see above
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Stream(self.outbox, self._accept), *self._listen, backlog=_BACKLOG
            )
        except OSError as error:
            raise cannot_listen(self._listen, error.errno) from None
        self._sweeper = asyncio.create_task(self._sweep())
        await self.hooks.trigger_event(hooks.RunningHook())
        host, port, *_ = self._server.sockets[0].getsockname()
        return host, port

    def _accept(self, stream: Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, stream: Stream) -> None:
        conversation = Conversation(self, stream)
        self._conversations.add(conversation)
        try:
            await conversation.run()
        except Exception as error:  # noqa: BLE001 - a failure of one connection ends that one
            log_failure("a connection", error)
        finally:
            self._conversations.discard(conversation)
            stream.close()

    def tell_disconnected(self, data: ServerConnectionHookData) -> None:
        """Tell the addons that an upstream's connection, used or idle, is closed."""
        data.server.timestamp_end = time.time()
        data.server.state = ConnectionState.CLOSED
        telling = self.hooks.call("server_disconnected", data)
        task = asyncio.get_running_loop().create_task(telling)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        """Close what has been idle for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._idle_seconds / 2))
            self.pool.sweep()
            oldest = loop.time() - self._idle_seconds
            for conversation in list(self._conversations):
                conversation.stream.notice_reading()
                if conversation.stream.moved_at < oldest:
                    conversation.end_idle()

    async def stop_listening(self) -> None:
        """Accept no more connections; those that are open go on."""
        if self._server is not None:
            self._server.close()

    def close_idle(self) -> bool:
        """Close the connections on which no request is in progress; whether any is still there."""
        for conversation in list(self._conversations):
            session = self.sessions.find(conversation.client)
            if session is None or session.exchange is None or session.exchange.finished:
                if session is not None:
                    self.recorder.time_out(session)
                # What has been written of the last answer still goes out.
                conversation.stream.close()
        return bool(self._conversations)

    async def close(self) -> None:
        """Close what is still open, and wait until its end is told to every addon."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for conversation in list(self._conversations):
            conversation.cut()
        if self._tasks:
            # Not cancelled at once: each tells how its request broke off.
            await asyncio.wait(self._tasks, timeout=_CLOSING_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.pool.close()
        # Their ends are told in the loop's next turn.
        await asyncio.sleep(0)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.hooks.trigger_event(hooks.DoneHook())
