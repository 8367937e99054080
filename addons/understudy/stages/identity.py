"""Stage 2: one Host, the tunnel's; a canonical target; headers for this hop removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.policy.model import Target
from understudy.reasons import Reason
from understudy.stages.exchange import Exchange, attach
from understudy.wire.identity import HOP_BY_HOP, caller_is_known, format_host, identify

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Sessions


class Identity:
    """Opens the Exchange and establishes what the request is for."""

    name = "understudy-identity"

    def __init__(
        self, sessions: Sessions, policies: PolicyHolder, caller_token: str | None
    ) -> None:
        self._sessions = sessions
        self._policies = policies
        self._caller_token = caller_token

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Judge the head as the client wrote it; what is forwarded is rebuilt from that."""
        session = self._sessions.of(flow.client_conn)
        head = session.head
        assert head is not None
        exchange = Exchange(session, self._policies.current, head)
        attach(flow, exchange)
        session.requests += 1
        target = identify(head, session.tunnel, tls=session.tls_started)
        if isinstance(target, Target):
            exchange.target = target
            flow.request.data.host, flow.request.data.port = target.host, target.port
            fields = flow.request.headers.fields
            if session.tunnel is None and not caller_is_known(fields, self._caller_token):
                exchange.refuse(Reason.PROXY_AUTH_REQUIRED)
            host = format_host(target.scheme, target.host, target.port).encode()
            flow.request.headers.fields = tuple(
                [
                    (name, host if lower == b"host" else value)
                    for name, value in fields
                    if (lower := name.lower()) not in HOP_BY_HOP
                ]
            )
        else:
            exchange.refuse(target)
        if flow.error is not None:
            exchange.refuse(Reason.BAD_HEADER)
