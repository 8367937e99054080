"""Which protocol comes next: HTTP on the proxy port, TLS then HTTP in a tunnel, nothing else.

Stands in for mitmproxy's NextLayer, which also knows raw TCP, DNS by port number, QUIC and
ignored hosts: ways out that carry bytes which no policy has seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, events, layer, layers
from mitmproxy.proxy.layers import modes
from mitmproxy.proxy.layers.http import HTTPMode

from understudy.reasons import Reason
from understudy.wire.head import looks_like_http
from understudy.wire.hello import HelloScan
from understudy.wire.scan import Incomplete, Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mitmproxy import dns, tcp, udp
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

    from understudy.stages.exchange import Session, Sessions
    from understudy.stages.record import Recorder

_TLS_RECORD_START = 3


class NextLayer:
    """Chooses the next layer from the first bytes, and refuses what is neither TLS nor HTTP."""

    name = "nextlayer"

    def __init__(
        self,
        sessions: Sessions,
        recorder: Recorder,
        handlers: Mapping[tuple[object, ...] | str, ProxyConnectionHandler],
    ) -> None:
        self._sessions = sessions
        self._recorder = recorder
        self._handlers = handlers

    def next_layer(self, data: layer.NextLayer) -> None:
        """Set ``data.layer``, or leave it for more bytes."""
        context = data.context
        session = self._sessions.of(context.client)
        start = data.data_client()
        if session.refusal is not None:
            data.layer = Refused(context)
        elif isinstance(context.layers[-1], modes.HttpProxy):
            data.layer = layers.HttpLayer(context, HTTPMode.regular)
        elif start[:1] == b"\x16" and len(start) < _TLS_RECORD_START:
            return
        elif starts_like_tls_record(start) and not session.tls_started:
            # mitmproxy puts a layer for the upstream's TLS around this one, for connections that
            # are opened before the request is read. Ours are opened after, with their own.
            context.server.tls = True
            data.layer = ClientTls(context, session, self._recorder)
            self._leave_connect_behind(data)
        elif starts_like_tls_record(start):
            self._recorder.reject(session, Reason.NESTED_TLS)
            data.layer = Refused(context)
        elif looks_like_http(start):
            data.layer = layers.HttpLayer(context, HTTPMode.transparent)
        else:
            self._recorder.reject(session, Reason.NOT_HTTP)
            data.layer = Refused(context)

    def _leave_connect_behind(self, data: layer.NextLayer) -> None:
        """Hand the connection's events to the tunnel's own layers from now on.

        The layers that answered CONNECT have nothing left to do but to wrap and unwrap every
        byte: a quarter of the processor time of a request.
        """
        self._handlers[data.context.client.id].layer = data

    def tcp_start(self, flow: tcp.TCPFlow) -> None:
        """Raw TCP cannot happen; if it does, it ends here."""
        flow.kill()

    def udp_start(self, flow: udp.UDPFlow) -> None:
        """Raw UDP cannot happen; if it does, it ends here."""
        flow.kill()

    def dns_request(self, flow: dns.DNSFlow) -> None:
        """A DNS tunnel cannot happen; if it does, it ends here."""
        flow.kill()


class ClientTls(layers.ClientTLSLayer):
    """The client's TLS: a ClientHello is read once it is there, within bounds.

    mitmproxy's own reads it again from the beginning with every byte, and takes any number.
    """

    def __init__(self, context: Context, session: Session, recorder: Recorder) -> None:
        super().__init__(context)
        self._session = session
        self._recorder = recorder
        self._scan = HelloScan()
        self._received = bytearray()
        self._passed_on = 0

    def receive_handshake_data(
        self, data: bytes
    ) -> layer.CommandGenerator[tuple[bool, str | None]]:
        """Wait for whole records."""
        if self.client_hello_parsed:
            return (yield from super().receive_handshake_data(data))
        self._received += data
        found = self._scan.look(self._received)
        if isinstance(found, Incomplete):
            return False, None
        if isinstance(found, Rejected):
            self._recorder.reject(self._session, found.reason, found.detail)
            return False, found.detail
        # What lies behind belongs to the handshake too where the hello ends here.
        fresh = bytes(self._received[self._passed_on :])
        self._passed_on = len(self._received)
        return (yield from super().receive_handshake_data(fresh))


class Refused(layer.Layer):
    """A layer that closes the client's connection and hears nothing more."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._closed = False

    def _handle_event(self, _: events.Event) -> layer.CommandGenerator[None]:
        if not self._closed:
            self._closed = True
            yield commands.CloseConnection(self.context.client)
