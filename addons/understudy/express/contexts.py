"""TLS contexts of the standard library: one for each host that is served, one for each trust."""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from understudy.authority.trust import upstream_bundle_pem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.authority.leaf import Leaf, LeafIssuer

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class ServerContexts:
    """Contexts that serve a host's leaf certificate; made when first asked for, kept bounded."""

    def __init__(self, issuer: LeafIssuer) -> None:
        self._issuer = issuer
        self._contexts: dict[str, tuple[Leaf, ssl.SSLContext]] = {}

    def serve(self, host: str) -> ssl.SSLContext:
        """The context for an allowed host; AuthorityError once the CA has expired."""
        leaf = self._issuer.issue(host)
        cached = self._contexts.get(host)
        if cached is not None and cached[0] is leaf:
            return cached[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(context)
        _load(context, leaf)
        if len(self._contexts) >= self._issuer.capacity:
            self._contexts.clear()
        self._contexts[host] = (leaf, context)
        return context


@lru_cache(maxsize=4)
def upstream_context(extra_pem: str | None) -> ssl.SSLContext:
    """The context that verifies upstreams: public roots and the policy's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.load_verify_locations(cadata=upstream_bundle_pem(extra_pem))
    context.hostname_checks_common_name = False
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load(context: ssl.SSLContext, leaf: Leaf) -> None:
    """Give the context its certificate and key; the module reads them from files only."""
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _readable(leaf.chain_pem) as certificate_file, _readable(key) as key_file:
        context.load_cert_chain(certificate_file, key_file)


@contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """A path under which ``content`` can be read once: a pipe, so that no key touches a disk."""
    reader, writer = os.pipe()
    try:
        os.write(writer, content)
        os.close(writer)
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)
