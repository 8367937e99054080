"""Stage 1: the client connection and its CONNECT tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from understudy.audit.events import UNUSED_TUNNEL
from understudy.audit.request_id import new_request_id
from understudy.policy.decide import decide_tunnel
from understudy.policy.hosts import HostError, canonical_host, parse_authority
from understudy.policy.model import Limits
from understudy.reasons import Reason
from understudy.stages.refusal import Denial
from understudy.wire.identity import caller_is_known

if TYPE_CHECKING:
    from mitmproxy import http, tls
    from mitmproxy.connection import Client
    from mitmproxy.tls import ClientHello

    from understudy.policy.model import Policy
    from understudy.policy.watch import PolicyHolder
    from understudy.stages.exchange import Session, Sessions
    from understudy.stages.record import Recorder

_SERVER_NAME = 0  # RFC 6066 3


class Tunnel:
    """Decides which connections may be tunnels, and to where; nothing is dialled here.

    ``caller_token`` is what callers must present in Proxy-Authorization; None: all are known.
    """

    name = "understudy-tunnel"

    def __init__(
        self,
        sessions: Sessions,
        policies: PolicyHolder,
        recorder: Recorder,
        caller_token: str | None,
    ) -> None:
        self._sessions = sessions
        self._policies = policies
        self._recorder = recorder
        self._caller_token = caller_token

    def client_connected(self, client: Client) -> None:
        """Start the session, unless too many are open."""
        # mitmproxy's type does not know of a client that was gone before it could be asked.
        if cast("object", client.peername) is None:
            client.error = "reset before it was accepted"
            return
        policy = self._policies.current
        session = self._sessions.start(client)
        if detail := self._overflow(session, policy.limits if policy else Limits()):
            self._recorder.reject(session, Reason.TOO_MANY_CONNECTIONS, detail)
            client.error = str(Reason.TOO_MANY_CONNECTIONS)
        self._recorder.connections_open(len(self._sessions))

    def _overflow(self, session: Session, limits: Limits) -> str | None:
        if self._sessions.everywhere() > limits.max_connections:
            return "in all"
        if self._sessions.count_from(session.address) > limits.max_connections_per_client:
            return "from this client"
        return None

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """Answer CONNECT: 2xx by silence, a denial otherwise."""
        session = self._sessions.of(flow.client_conn)
        policy = self._policies.current
        reason, rule = self._judge_connect(session, flow, policy)
        if reason is Reason.ALLOWED:
            assert session.tunnel is not None
            session.requests = 0
            # The canonical form, which plans are made for; the client may have written another.
            flow.request.data.host = session.tunnel.host
            flow.request.data.port = session.tunnel.port
            return
        assert session.head is not None
        tunnel = session.tunnel
        denial = Denial(
            reason,
            new_request_id(),
            rule,
            "CONNECT",
            tunnel.host if tunnel else "This host",
            tunnel.port if tunnel else "this port",
        )
        session.tunnel = None
        self._recorder.deny_tunnel(session, denial, policy)
        flow.response = denial.response()

    def _judge_connect(
        self, session: Session, flow: http.HTTPFlow, policy: Policy | None
    ) -> tuple[Reason, str | None]:
        head = session.head
        assert head is not None
        if head.refusal is not None or session.tunnel is not None:
            return head.refusal or Reason.BAD_METHOD, None
        if not caller_is_known(flow.request.headers.fields, self._caller_token):
            return Reason.PROXY_AUTH_REQUIRED, None
        try:
            session.tunnel = parse_authority(head.target, None)
        except HostError:
            return Reason.BAD_TARGET, None
        if policy is None:
            return Reason.POLICY_MISSING, None
        verdict = decide_tunnel(policy, session.tunnel.host, session.tunnel.port)
        return (Reason.ALLOWED if verdict.allow else verdict.reason), verdict.rule

    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Check the one ClientHello of a tunnel; what fails gets no certificate."""
        session = self._sessions.of(data.context.client)
        session.hellos += 1
        if session.tunnel is None:
            self._recorder.reject(session, Reason.NOT_HTTP, "TLS to the proxy's own port")
        elif session.hellos > 1:
            self._recorder.reject(session, Reason.NESTED_TLS)
        elif not _names_only(data.client_hello, session.tunnel.host):
            self._recorder.reject(session, Reason.SNI_MISMATCH)

    def tls_established_client(self, data: tls.TlsData) -> None:
        """Remember that what follows is inside TLS."""
        self._sessions.of(data.context.client).tls_started = True

    def tls_failed_client(self, data: tls.TlsData) -> None:
        """Say in the audit that the client refused our certificate or broke off."""
        session = self._sessions.of(data.context.client)
        self._recorder.reject(session, Reason.CLIENT_CLOSED, "the TLS handshake failed")

    def client_disconnected(self, client: Client) -> None:
        """End the session; one that asked for a tunnel and then nothing leaves a line too."""
        session = self._sessions.end(client)
        if session is not None and session.tunnel is not None and session.requests == 0:
            self._recorder.reject(session, Reason.CLIENT_CLOSED, UNUSED_TUNNEL)
        self._recorder.connections_open(len(self._sessions))


def _names_only(hello: ClientHello, host: str) -> bool:
    """Whether the ClientHello asks for ``host``, or for no name at all."""
    if hello.sni is None:
        # mitmproxy also says None for two names, and for one that cannot be a host's.
        return all(kind != _SERVER_NAME for kind, _ in hello.extensions)
    return _same_host(hello.sni, host)


def _same_host(sni: str, host: str) -> bool:
    try:
        return canonical_host(sni) == host
    except HostError:
        return False
