"""The operator's own certificate authorities, as a file gives them."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


class CertificateError(ValueError):
    """A ``ca_file`` that cannot be used; the text is a sentence for the policy's author."""


def read_certificates(data: bytes) -> str:
    """Return the certificates in ``data`` and nothing else of it, as PEM text.

    Raises :class:`CertificateError`, also where a private key stands among them: the result is
    handed out in trust bundles.
    """
    if b"PRIVATE KEY-----" in data:
        raise CertificateError("the file holds a private key; it must hold certificates only")
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise CertificateError("the file holds no PEM certificate that can be read") from None
    return "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in certificates)
