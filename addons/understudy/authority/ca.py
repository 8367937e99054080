"""The certificate authority that signs for the hosts an agent may reach.

Its key never leaves the proxy: sandboxes get the certificate only (see
:mod:`understudy.authority.trust`), and leaf certificates use a key of their own (see
:mod:`understudy.authority.leaf`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from understudy.authority.pair import AuthorityError, PrivateKey, read_pair

# A year outlives any sandbox, so nobody meets a rotation by surprise, and yet a copy forgotten in
# some trust store stops mattering on its own.
LIFETIME = timedelta(days=365)
# Renewed at start only: running sandboxes hold the old certificate and must not lose it midway.
RENEW_BEFORE_EXPIRY = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)

KEY_FILE = "ca.key"
CERTIFICATE_FILE = "ca.crt"


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA certificate and its key, checked to belong together and to be fit for signing.

    Make one with :meth:`load_or_create` or :meth:`from_files`; both raise AuthorityError.
    """

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False, compare=False)
    chain: tuple[x509.Certificate, ...] = ()
    """What signed the certificate, nearest first; empty where it is self-signed."""

    @classmethod
    def load_or_create(cls, state_dir: Path) -> Authority:
        """Give the CA under ``state_dir/ca``, made on first use and renewed before it expires.

        Key and certificate appear together or not at all, also where two processes start at once.
        Renewal happens here, with less than 30 days left or before its time has begun; the old
        pair is kept beside the new one.
        """
        folder = state_dir / "ca"
        if folder.is_dir() and any(folder.iterdir()):
            authority = _load(folder / CERTIFICATE_FILE, folder / KEY_FILE)
            if not _is_due(authority):
                return authority
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (state_dir / ".ca.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return _create(folder)
        except OSError as error:
            raise AuthorityError(
                f"{folder}: cannot make the CA ({error.strerror}). "
                "Give a state directory that this user may write to."
            ) from error

    @classmethod
    def from_files(cls, certificate_file: Path, key_file: Path) -> Authority:
        """Give the operator's own CA, as cert-manager writes it (``tls.crt``, ``tls.key``).

        The certificate file may go on with the certificates that signed it, nearest first. EC and
        RSA keys are accepted, in clear PEM. A key file that belongs to another user, as in a
        mounted Kubernetes Secret, may be readable by its group; never by everybody.
        """
        authority = _load(certificate_file, key_file)
        _check_dates(authority, certificate_file)
        return authority

    @property
    def fingerprint_sha256(self) -> str:
        """The certificate's SHA-256, written as ``openssl x509 -fingerprint`` does."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def not_before(self) -> datetime:
        """When the certificate becomes valid, in UTC."""
        return self.certificate.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the certificate stops being valid, in UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def cert_pem(self) -> str:
        """The CA certificate alone."""
        return to_pem(self.certificate)

    @property
    def trust_pem(self) -> str:
        """The CA certificate and its chain, for those who shall trust it.

        The chain is there because many clients (OpenSSL's default, older node) take only a
        self-signed certificate as an anchor.
        """
        return "".join(to_pem(certificate) for certificate in (self.certificate, *self.chain))

    @property
    def key_identifier(self) -> bytes:
        """The subject key identifier, which every leaf repeats as its authority's."""
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return extension.value.digest


def to_pem(certificate: x509.Certificate) -> str:
    """Give the certificate as PEM text, ending in a newline."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _is_due(authority: Authority) -> bool:
    now = datetime.now(UTC)
    # One that has not begun was made by a clock that was ahead: nobody would believe it.
    return authority.not_after - now < RENEW_BEFORE_EXPIRY or authority.not_before > now


def _create(folder: Path) -> Authority:
    """Make a pair in a folder of its own and rename it into place; the caller holds the lock."""
    if folder.is_dir() and any(folder.iterdir()):
        authority = _load(folder / CERTIFICATE_FILE, folder / KEY_FILE)
        if not _is_due(authority):
            return authority  # another process was faster
    authority = _generate()
    fresh = Path(tempfile.mkdtemp(prefix=".ca-", dir=folder.parent))  # 0700
    try:
        key_pem = authority.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_new(fresh / KEY_FILE, key_pem, mode=0o600)
        _write_new(fresh / CERTIFICATE_FILE, authority.cert_pem.encode("ascii"), mode=0o644)
        if folder.is_dir() and any(folder.iterdir()):
            folder.rename(folder.with_name(f"ca.until-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"))
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return authority


def _generate() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # A name of its own for each CA: verifiers find issuers by name, and two with one name in one
    # bundle make some of them try the wrong one and give up.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Understudy"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Understudy CA {identifier.digest.hex()[:8]}"),
        ]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        # Critical, as Python 3.13 and Go insist (RFC 5280, 4.2.1.9); 0: it signs leaves only.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _load(certificate_file: Path, key_file: Path) -> Authority:
    certificates, key = read_pair(certificate_file, key_file)
    return Authority(certificate=certificates[0], key=key, chain=certificates[1:])


def _check_dates(authority: Authority, path: Path) -> None:
    now = datetime.now(UTC)
    if authority.not_after <= now:
        raise AuthorityError(
            f"{path}: the CA expired at {authority.not_after:%Y-%m-%dT%H:%M:%SZ}. Give a new one."
        )
    if authority.not_before > now:
        raise AuthorityError(
            f"{path}: the CA is not valid before {authority.not_before:%Y-%m-%dT%H:%M:%SZ}. "
            "Check this machine's clock."
        )
