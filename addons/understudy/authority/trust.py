"""Which roots are believed: by the proxy towards upstreams, and by a sandbox towards the proxy.

The two never mix. The proxy's own CA is in the sandbox's bundle and never in the upstream one, or
whoever gets a certificate out of the proxy could pose as a provider to it.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
from cryptography import x509

from understudy.authority.ca import to_pem
from understudy.authority.pair import AuthorityError

if TYPE_CHECKING:
    from understudy.authority.ca import Authority


def upstream_bundle_pem(extra_pem: str | None = None, own: Authority | None = None) -> str:
    """Give the roots that upstreams are verified against: the public ones and the operator's.

    ``own`` is the proxy's CA. Found among the operator's roots it is an AuthorityError, like
    anything there that is not a certificate.
    """
    roots = _parse_roots(extra_pem)
    if own is not None and own.certificate in roots:
        raise AuthorityError(
            "The proxy's own CA is among the upstream roots (upstream.ca_file). Remove it: with it "
            "a certificate made for an agent would also pass as a provider's."
        )
    return _bundle(roots)


def sandbox_bundle(authority: Authority, extra_pem: str | None = None) -> str:
    """Give the roots that a sandbox needs: the public ones, the operator's and the proxy's CA.

    Certificates only; programs that replace their roots by a file (curl, pip, git) stay able to
    verify hosts that they reach without the proxy.
    """
    roots = [*_parse_roots(extra_pem), authority.certificate, *authority.chain]
    return _bundle(list(dict.fromkeys(roots)))


def write_atomic(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace ``path`` so that a reader sees the old content or the new one, nothing between.

    Raises OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _parse_roots(extra_pem: str | None) -> list[x509.Certificate]:
    if not extra_pem or not extra_pem.strip():
        return []
    if "PRIVATE KEY-----" in extra_pem:
        raise AuthorityError(
            "The operator's roots (upstream.ca_file) hold a private key. Give certificates only: "
            "this file is copied into every sandbox."
        )
    try:
        # Parsed and written again, so that comments and attributes do not travel.
        return list(dict.fromkeys(x509.load_pem_x509_certificates(extra_pem.encode())))
    except ValueError as error:
        raise AuthorityError(
            f"The operator's roots (upstream.ca_file) are not PEM certificates ({error})."
        ) from error


def _bundle(roots: list[x509.Certificate]) -> str:
    return _public_roots() + "".join(to_pem(root) for root in roots)


@cache
def _public_roots() -> str:
    # Read once, at the start: later there may be no descriptor left to read it with.
    return certifi.contents().rstrip("\n") + "\n"
