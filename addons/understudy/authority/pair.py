"""A CA's two files, read and checked: the certificate with its chain, and the key.

What a strict client would refuse later is refused here, with a sentence that says how to mend it.
"""

from __future__ import annotations

import os
import stat
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

MIN_RSA_KEY_BITS = 2048
MAX_FILE_BYTES = 1 << 20

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class AuthorityError(Exception):
    """The CA cannot be made, read or used; the message says which file, why, and what to do."""


def read_pair(
    certificate_file: Path, key_file: Path
) -> tuple[tuple[x509.Certificate, ...], PrivateKey]:
    """Give the CA certificate with its chain, nearest first, and the key that belongs to it.

    The dates are not looked at. Raises AuthorityError.
    """
    certificates = _read_certificates(certificate_file)
    key = _read_key(key_file)
    if _spki(certificates[0].public_key()) != _spki(key.public_key()):
        raise AuthorityError(
            f"{key_file}: this key is not the one of the first certificate in {certificate_file}. "
            "Give the two files that were made together."
        )
    _check_fitness(certificates[0], certificate_file)
    _check_chain(certificates, certificate_file)
    return tuple(certificates), key


def _read(path: Path, what: str) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES), os.fstat(file.fileno())
    except OSError as error:
        raise AuthorityError(
            f"{path}: cannot read the CA's {what} ({error.strerror}). "
            "Check the path and that this user may read it."
        ) from error


def _read_certificates(path: Path) -> list[x509.Certificate]:
    content, _ = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise AuthorityError(
            f"{path}: not a PEM certificate ({error}). "
            "Give the CA certificate, with its chain after it if it has one."
        ) from error


def _read_key(path: Path) -> PrivateKey:
    content, status = _read(path, "key")
    _check_key_mode(path, status)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError as error:
        raise AuthorityError(
            f"{path}: the CA's key is encrypted. Give it in clear, in a file of mode 0600."
        ) from error
    except ValueError as error:
        # The parser's words stay out: they may quote what they could not parse.
        raise AuthorityError(
            f"{path}: not a private key in PEM. Give an EC or RSA key as PKCS #8 or SEC 1."
        ) from error
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_KEY_BITS:
        raise AuthorityError(
            f"{path}: an RSA key of {key.key_size} bits is too weak; clients refuse it. "
            f"Use at least {MIN_RSA_KEY_BITS} bits, or EC P-256."
        )
    if not isinstance(key, PrivateKey):
        raise AuthorityError(
            f"{path}: a key of this kind is not known to every client. Use EC P-256 or RSA."
        )
    return key


def _check_key_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    # A Secret volume belongs to root; fsGroup (mode 0440) is the one way to let in a proxy that
    # does not run as root, and only the proxy's container mounts that volume.
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o037
    if mode & forbidden:
        raise AuthorityError(
            f"{path}: the CA's key has mode {mode:04o}, so others can read or replace it. "
            "Run `chmod 600` on it; in Kubernetes set the volume's defaultMode to 0400 "
            "(and fsGroupChangePolicy to OnRootMismatch where the state directory is kept)."
        )


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _check_fitness(certificate: x509.Certificate, path: Path) -> None:
    """Refuse what a strict verifier would refuse later, in every client at once."""
    extensions = certificate.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.value.ca:
        raise AuthorityError(
            f"{path}: the certificate is not a CA's (basicConstraints CA:TRUE is missing). "
            "Give a CA certificate; with cert-manager set isCA: true."
        )
    if not constraints.critical:
        raise AuthorityError(
            f"{path}: the CA's basicConstraints are not marked critical, and Python 3.13 and "
            "others refuse such a CA. Make it again with `basicConstraints=critical,CA:TRUE`."
        )
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.key_cert_sign:
        raise AuthorityError(
            f"{path}: the CA may not sign certificates (keyUsage keyCertSign is missing). "
            "Make it again with `keyUsage=critical,keyCertSign,cRLSign`."
        )
    try:
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound as error:
        raise AuthorityError(
            f"{path}: the CA has no subject key identifier, and Python 3.13 and others refuse "
            "such a CA. Make it again with `subjectKeyIdentifier=hash`."
        ) from error
    if certificate.subject != certificate.issuer:
        try:
            extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        except x509.ExtensionNotFound as error:
            raise AuthorityError(
                f"{path}: the CA does not say which key signed it, and Python 3.13 and others "
                "refuse such a CA. Sign it again with `authorityKeyIdentifier=keyid`."
            ) from error


def _check_chain(certificates: list[x509.Certificate], path: Path) -> None:
    for number, (below, above) in enumerate(pairwise(certificates), 2):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise AuthorityError(
                f"{path}: certificate {number} did not sign the one before it. "
                "Put the CA first, then each certificate's signer."
            ) from error
