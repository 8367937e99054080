"""TLS on both sides: our leaf certificates for clients, verified upstreams by the decided name.

Stands in for mitmproxy's TlsConfig, which signs with the CA's own key pair, answers a certificate
revocation URL inside other sites, and verifies upstreams against the client's server name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, crypto

from understudy.authority.trust import upstream_bundle_pem

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.tls import TlsData

    from understudy.authority.ca import Authority
    from understudy.authority.leaf import Leaf, LeafIssuer
    from understudy.policy.model import Policy
    from understudy.stages.exchange import Sessions

# Forward secrecy and authenticated encryption only; TLS 1.3 suites are OpenSSL's own.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_HTTP11 = b"http/1.1"
_PEM_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_HOST_FLAGS = (
    SSL._lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS  # noqa: SLF001 - pyOpenSSL has no public name
    | SSL._lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT  # noqa: SLF001 - pyOpenSSL has no public name
)


class Tls:
    """Provides the TLS connections that the engine asks for; none for a refused session."""

    name = "understudy-tls"

    def __init__(
        self,
        sessions: Sessions,
        issuer: LeafIssuer,
        current_policy: Callable[[], Policy | None],
    ) -> None:
        self._sessions = sessions
        self._issuer = issuer
        self._current_policy = current_policy
        self._client_contexts: dict[str, tuple[Leaf, SSL.Context]] = {}

    def tls_start_client(self, data: TlsData) -> None:
        """Serve the tunnel's own host name; leaving ``ssl_conn`` unset closes the connection."""
        session = self._sessions.of(data.context.client)
        if session.refusal is not None or session.tunnel is None or data.is_dtls:
            data.ssl_conn = None
            return
        connection = SSL.Connection(self._client_context(session.tunnel.host))
        connection.set_accept_state()
        data.ssl_conn = connection

    def tls_start_server(self, data: TlsData) -> None:
        """Verify the upstream by the pinned name; without one there is no connection."""
        policy = self._current_policy()
        name = data.conn.sni
        if policy is None or name is None or data.is_dtls:
            data.ssl_conn = None
            return
        connection = SSL.Connection(
            upstream_context(policy.upstream.ca_pem, self._issuer.authority)
        )
        _verify_name(connection, name)
        connection.set_alpn_protos([_HTTP11])
        connection.set_connect_state()
        data.ssl_conn = connection

    def _client_context(self, host: str) -> SSL.Context:
        leaf = self._issuer.issue(host)
        cached = self._client_contexts.get(host)
        if cached is not None and cached[0] is leaf:
            return cached[1]
        context = _new_context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(leaf.certificate)
        context.use_privatekey(leaf.key)
        for certificate in leaf.chain:
            context.add_extra_chain_cert(certificate)
        context.set_alpn_select_callback(_select_http11)
        context.set_session_id(b"understudy")
        if len(self._client_contexts) >= self._issuer.capacity:
            self._client_contexts.clear()
        self._client_contexts[host] = (leaf, context)
        return context


def _new_context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(_CIPHERS)
    return context


@lru_cache(maxsize=4)
def upstream_context(extra_pem: str | None, own: Authority) -> SSL.Context:
    """The context that verifies upstreams: public roots and the policy's own."""
    context = _new_context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER, None)
    store = context.get_cert_store()
    assert store is not None
    for pem in _PEM_CERTIFICATE.findall(upstream_bundle_pem(extra_pem, own)):
        store.add_cert(crypto.load_certificate(crypto.FILETYPE_PEM, pem.encode("ascii")))
    return context


def _verify_name(connection: SSL.Connection, name: str) -> None:
    """Demand a certificate for ``name``; pyOpenSSL exposes this only through its bindings."""
    lib = SSL._lib  # noqa: SLF001 - pyOpenSSL has no public name for host verification
    parameters = lib.SSL_get0_param(connection._ssl)  # noqa: SLF001 - as above
    lib.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
    try:
        address = ip_address(name).packed
    except ValueError:
        encoded = name.encode("ascii")
        connection.set_tlsext_host_name(encoded)
        accepted = lib.X509_VERIFY_PARAM_set1_host(parameters, encoded, len(encoded))
    else:
        # RFC 6066: no address in the server name extension.
        accepted = lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
    if accepted != 1:
        raise ValueError("the upstream's name cannot be verified")


def _select_http11(_: SSL.Connection, offers: list[bytes]) -> Any:  # pyOpenSSL's type is private
    return _HTTP11 if _HTTP11 in offers else SSL.NO_OVERLAPPING_PROTOCOLS
