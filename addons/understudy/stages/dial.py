"""Stage 6: a connection leads only where a decision said, to an address that the guard passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.reasons import Reason
from understudy.stages.exchange import exchange_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mitmproxy import http
    from mitmproxy.proxy.server_hooks import ServerConnectionHookData

    from understudy.engine.dialer import Dialer, DialPlan
    from understudy.policy.model import Policy
    from understudy.stages.exchange import Exchange, Sessions


class Dial:
    """Looks the destination up once it is decided, and pins every connection to that."""

    name = "understudy-dial"

    def __init__(self, sessions: Sessions, dialer: Dialer) -> None:
        self._sessions = sessions
        self._dialer = dialer

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Make the plan for the decided destination."""
        exchange = exchange_of(flow)
        destination, policy = exchange.destination, exchange.policy
        if exchange.refusal is not None or destination is None or policy is None:
            return None
        _, host, port = destination
        plan = self._dialer.recall(host, port, policy)
        if plan is None:
            return self._plan(exchange, host, port, policy)
        exchange.dial_plan = plan
        return None

    async def _plan(self, exchange: Exchange, host: str, port: int, policy: Policy) -> None:
        plan: DialPlan | Reason = await self._dialer.plan(host, port, policy)
        if isinstance(plan, Reason):
            exchange.refuse(plan)
        else:
            exchange.dial_plan = plan

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Let exactly the decided connection be made, its TLS name pinned to the decision."""
        exchange = self._sessions.of(data.client).exchange
        plan = exchange.dial_plan if exchange is not None and exchange.refusal is None else None
        address = data.server.address
        if plan is None or address is None or (plan.host, plan.port) != address[:2]:
            data.server.error = "no decided destination"
            return
        # mitmproxy would verify the certificate against the client's SNI otherwise.
        data.server.sni = plan.host
        plan.use()
