"""Fail closed: the one place where hooks are called, and where their exceptions end.

mitmproxy logs what a hook raises and forwards the request all the same. This manager turns every
exception, whichever addon raised it, into a refusal of what the hook was about. It also calls the
hooks from lists compiled when addons change, which costs a fraction of the stock manager's walk.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any

from mitmproxy import addonmanager, flow, http
from mitmproxy.connection import Client, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData

from understudy.audit.request_id import new_request_id
from understudy.engine.failures import describe_error
from understudy.reasons import Reason
from understudy.stages.exchange import find_exchange
from understudy.stages.record import denial_of
from understudy.stages.refusal import Denial

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.hooks import Hook

    from understudy.admin.metrics import Metrics
    from understudy.stages.exchange import Session, Sessions
    from understudy.stages.record import Recorder

logger = logging.getLogger(__name__)

_LIFECYCLE = frozenset({"load", "configure", "running", "done"})
_FIRST_REFUSAL = 400
_LAST_HOOKS = frozenset({"response", "error"})


class FailClosedAddonManager(addonmanager.AddonManager):
    """mitmproxy's addon manager, with every hook call wrapped."""

    def __init__(
        self, master: object, sessions: Sessions, recorder: Recorder, metrics: Metrics
    ) -> None:
        super().__init__(master)  # type: ignore[no-untyped-call] # the base is not annotated
        self._sessions = sessions
        self._recorder = recorder
        self._metrics = metrics
        self._compiled: dict[str, list[Callable[..., Any]]] = {}

    def add(self, *addons: object) -> None:
        """Add addons to the end of the chain."""
        super().add(*addons)  # type: ignore[no-untyped-call] # the base is not annotated
        self._compiled.clear()

    def remove(self, addon: object) -> None:
        """Remove an addon from the chain."""
        super().remove(addon)  # type: ignore[no-untyped-call] # the base is not annotated
        self._compiled.clear()

    async def handle_lifecycle(self, event: Hook) -> None:
        """Call a hook on every addon, in order; the first failure refuses, the rest still run."""
        await self.trigger_event(event)

    async def trigger_event(self, event: Hook) -> None:
        """Call every addon's hook of the event's name."""
        await self.call(event.name, *event.args())

    async def call(self, name: str, *arguments: object) -> None:
        """Call every addon's hook of this name."""
        hooks = self._compiled.get(name)
        if hooks is None:
            hooks = self._compiled[name] = [
                hook
                for addon in addonmanager.traverse(self.chain)
                if callable(hook := getattr(addon, name, None))
            ]
        for hook in hooks:
            try:
                result = hook(*arguments)
                if result is not None and inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise  # the connection is ending, and not what the hook waited for
                self._fail(name, error, arguments[0] if arguments else None)
            except Exception as error:  # noqa: BLE001 - whatever a hook raises must refuse
                self._fail(name, error, arguments[0] if arguments else None)

    def _fail(self, hook: str, error: BaseException, subject: object) -> None:
        logger.error("hook %s failed with %s", hook, describe_error(error))
        if hook in _LIFECYCLE:
            raise error
        self._metrics.hook_failed(hook)
        try:
            self.refuse(hook, subject)
        except Exception as second:  # noqa: BLE001 - the last resort below must be reached
            logger.error("refusing after %s failed with %s", hook, type(second).__name__)  # noqa: TRY400 - no text of the exception
            _last_resort(subject)
            self._leave_a_line(subject)

    def _leave_a_line(self, subject: object) -> None:
        """Record the connection as refused where a request's own verdict cannot be written."""
        exchange = find_exchange(subject) if isinstance(subject, http.HTTPFlow) else None
        if exchange is not None and not exchange.decided:
            with contextlib.suppress(Exception):
                self.refuse_session(exchange.session)

    def refuse(self, hook: str, subject: object) -> None:
        """Refuse what a failed hook was about."""
        match subject:
            case http.HTTPFlow() if subject.request.method == "CONNECT":
                self._refuse_connect(subject)
            case http.HTTPFlow():
                self._refuse_flow(hook, subject)
            case ServerConnectionHookData():
                subject.server.error = str(Reason.INTERNAL_ERROR)
                self._refuse_exchange(subject.client)
            case TlsData() if isinstance(subject.conn, Server):
                subject.ssl_conn = None
                self._refuse_exchange(subject.context.client)
            case ClientHelloData() | TlsData():
                self.refuse_session(self._sessions.find(subject.context.client))
                if isinstance(subject, TlsData):
                    subject.ssl_conn = None
            case Client() if hook == "client_disconnected":
                self._sessions.end(subject)
            case Client():
                subject.error = str(Reason.INTERNAL_ERROR)
                self.refuse_session(self._sessions.find(subject) or self._sessions.start(subject))
            case _:
                _last_resort(subject)

    def _refuse_exchange(self, client: Client) -> None:
        session = self._sessions.find(client)
        if session is not None and session.exchange is not None:
            session.exchange.refuse(Reason.INTERNAL_ERROR)

    def refuse_session(self, session: Session | None) -> None:
        """Refuse a whole connection, once."""
        if session is not None:
            self._recorder.reject(session, Reason.INTERNAL_ERROR)

    def _refuse_connect(self, connect: http.HTTPFlow) -> None:
        if connect.response is not None and connect.response.status_code >= _FIRST_REFUSAL:
            return  # recorded already
        denial = Denial(Reason.INTERNAL_ERROR, new_request_id(), method="CONNECT")
        connect.response = denial.response()
        session = self._sessions.find(connect.client_conn)
        if session is not None:
            session.tunnel = None
            self._recorder.deny_tunnel(session, denial)

    def _refuse_flow(self, hook: str, subject: http.HTTPFlow) -> None:
        exchange = find_exchange(subject)
        if exchange is None or (exchange.refusal is not None and hook == "requestheaders"):
            _last_resort(subject)
            self.refuse_session(self._sessions.find(subject.client_conn))
            return
        exchange.refuse(Reason.INTERNAL_ERROR)
        self._recorder.decide(exchange)
        if hook == "requestheaders":
            subject.request.stream = False
            subject.response = denial_of(exchange).response()
        elif subject.killable:
            subject.kill()
        if hook in _LAST_HOOKS:
            status = subject.response.status_code if subject.response else None
            self._recorder.finish(exchange, status, exchange.refusal)


def _is_cancelled() -> bool:
    """Whether it is the task itself that somebody wants to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _last_resort(subject: object) -> None:
    """Stop the flow with what cannot fail."""
    if isinstance(subject, flow.Flow) and subject.killable:
        subject.kill()
