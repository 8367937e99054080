"""Stage 2: one Host, the tunnel's; a canonical target; headers for this hop removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from understudy.reasons import Reason
from understudy.stages.exchange import Exchange, attach
from understudy.wire.identity import HOP_BY_HOP, caller_is_known, format_host, identify
from understudy.wire.outline import Outline

if TYPE_CHECKING:
    from mitmproxy import http

    from understudy.policy.hosts import Authority
    from understudy.policy.model import Target
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Sessions
    from understudy.wire.head import RequestHead


class Identified(NamedTuple):
    """Whom a request is for, and the head that says so."""

    target: Target
    outline: Outline
    """Without headers for this hop, Host and coding canonical."""


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
        tunnel, tls = session.tunnel, session.tls_started
        fields, outline = flow.request.headers.fields, head.outline
        if outline is None or fields is not head.fields:
            # Another addon changed them, or mitmproxy's own engine has read the head itself.
            outline = Outline(fields, head.path)
        found = outline.once(
            "identify", (tunnel, tls), lambda: _identify(head, outline, tunnel, tls=tls)
        )
        if isinstance(found, Identified):
            exchange.target, exchange.outline = found
            flow.request.data.host, flow.request.data.port = found.target.host, found.target.port
            if tunnel is None and not caller_is_known(fields, self._caller_token):
                exchange.refuse(Reason.PROXY_AUTH_REQUIRED)
        else:
            exchange.refuse(found)
        if flow.error is not None:
            exchange.refuse(Reason.BAD_HEADER)


def _identify(
    head: RequestHead, outline: Outline, tunnel: Authority | None, *, tls: bool
) -> Identified | Reason:
    target = identify(head, tunnel, tls=tls)
    if isinstance(target, Reason):
        return target
    ours = {
        b"host": format_host(target.scheme, target.host, target.port).encode(),
        # In other letters it is a coding that some servers do not know.
        b"transfer-encoding": b"chunked",
    }
    fields = tuple(
        [
            (name, ours.get(lower, value))
            for name, value in outline.fields
            if (lower := name.lower()) not in HOP_BY_HOP
        ]
    )
    return Identified(target, outline.changed(fields, outline.target))
