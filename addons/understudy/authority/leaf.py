"""Certificates for the hosts that an agent talks to, signed by the proxy's CA when needed.

All of them share one key that lives in memory only. It is not the CA's: what speaks TLS with the
agent holds nothing that could sign for another host.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from understudy.authority.ca import CLOCK_SKEW, to_pem
from understudy.authority.pair import AuthorityError

if TYPE_CHECKING:
    from understudy.authority.ca import Authority

LIFETIME = timedelta(days=6)
CACHE_ENTRIES = 1024

# Hosts arrive canonical; this is the last look before a name is signed for.
_DNS_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_MAX_COMMON_NAME_CHARACTERS = 64  # RFC 5280, ub-common-name


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate for one host, with its key and what signed it."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """What a server sends after the certificate: signers, without a self-signed one."""
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    cert_pem: bytes
    """The certificate alone."""
    not_before: datetime
    """When it becomes valid, in UTC."""
    renew_at: datetime
    """When the issuer stops handing this one out, in UTC; well before it expires."""

    @property
    def chain_pem(self) -> bytes:
        """The certificate and its chain, in the order in which a server sends them."""
        signers = "".join(to_pem(certificate) for certificate in self.chain)
        return self.cert_pem + signers.encode("ascii")


class LeafIssuer:
    """Signs a certificate for any host, once, and keeps the last 1024 of them.

    Not for use from two threads at once. Ask only for hosts that the policy allows: a certificate
    is a promise to intercept.
    """

    capacity = CACHE_ENTRIES
    """How many leaves are kept; the one used longest ago goes first."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        """What signs."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()
        signers = (authority.certificate, *authority.chain)
        self._chain = tuple(signer for signer in signers if signer.subject != signer.issuer)
        self._authority_identifier = x509.AuthorityKeyIdentifier(
            authority.key_identifier, authority_cert_issuer=None, authority_cert_serial_number=None
        )
        self._subject_identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())

    def issue(self, host: str) -> Leaf:
        """Give a certificate for exactly the canonical ``host`` (a DNS name or an IP address).

        Raises ValueError for what is neither, and AuthorityError once the CA has expired.
        """
        now = datetime.now(UTC)
        leaf = self._leaves.get(host)
        # A clock that was put back makes one that was signed before invalid: it has not begun.
        if leaf is not None and leaf.not_before <= now < leaf.renew_at:
            self._leaves.move_to_end(host)
            return leaf
        leaf = self._sign(host, now)
        self._leaves[host] = leaf
        self._leaves.move_to_end(host)
        if len(self._leaves) > self.capacity:
            self._leaves.popitem(last=False)
        return leaf

    def _sign(self, host: str, now: datetime) -> Leaf:
        authority = self.authority
        name = _general_name(host)
        if authority.not_after <= now:
            raise AuthorityError(
                f"The CA expired at {authority.not_after:%Y-%m-%dT%H:%M:%SZ}, so nothing can be "
                "signed. Restart to make a new one, or give one with --ca-cert and --ca-key."
            )
        # Never outside the CA's own time, or verifiers disagree about the chain.
        not_before = max(now - CLOCK_SKEW, authority.not_before)
        not_after = min(now + LIFETIME, authority.not_after)
        common_name = host if len(host) <= _MAX_COMMON_NAME_CHARACTERS else "Understudy"
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(authority.certificate.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_KEY_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(self._subject_identifier, critical=False)
            .add_extension(self._authority_identifier, critical=False)
            .sign(authority.key, hashes.SHA256())
        )
        return Leaf(
            certificate=certificate,
            chain=self._chain,
            key=self._key,
            cert_pem=to_pem(certificate).encode("ascii"),
            not_before=not_before,
            renew_at=now + (not_after - now) / 2,
        )


_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _DNS_NAME.match(host):
        raise ValueError(
            f"{host!r} is not a canonical host name, so no certificate is made for it."
        )
    return x509.DNSName(host)
