"""Host names in one canonical form, authorities, and the patterns that a policy writes.

Two readings of one name are how allowlists are bypassed, so a name is brought into its canonical
form once, at the edge, and everything behind compares plain strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

import idna
from publicsuffixlist import PublicSuffixList

_NAME_BYTES = 253  # RFC 1035 section 2.3.4, without the root's dot
# Underscores are no host names by RFC 952, yet service and bucket names carry them.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What C libraries read as an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_PORT = re.compile(rb"[1-9][0-9]{0,4}")


class HostError(ValueError):
    """A host or authority that is refused; the text is a sentence for the policy's author."""


def canonical_host(text: str) -> str:
    """Return the one form of ``text`` that is ever compared: lower-case A-labels, or an address.

    IPv6 addresses are accepted with or without brackets and returned without. One trailing dot is
    removed. Nothing is repaired: white space, userinfo, percent-escapes, empty labels and broken
    A-labels raise :class:`HostError`. Numeric names that some C libraries take for an IPv4 address
    (``2130706433``, ``0x7f.1``) stay names; no pattern can match them.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else None
    if bare is not None or ":" in text:
        return _canonical_ipv6(text if bare is None else bare)
    if not text.isascii():
        name = _to_a_labels(text)
        if _NUMERIC.fullmatch(name):
            raise HostError(f"{text!r} is an address in disguise: write it in plain digits")
    else:
        name = text.lower()
    if _is_ipv4(name):
        return name
    name = name.removesuffix(".")
    if _is_ipv4(name):
        raise HostError(f"{text!r}: an address has no trailing dot")
    _check_name(name, text)
    return name


class Authority(NamedTuple):
    """A canonical host and a port."""

    host: str
    port: int


@lru_cache(maxsize=1024)  # only what is valid is kept, so an entry is at most a few hundred bytes
def parse_authority(raw: bytes, default_port: int | None) -> Authority:
    """Read ``host:port`` as it stands in a CONNECT target or a Host header.

    Without a port, ``default_port`` counts; where that is None the port is required. Strict, since
    clients choose these bytes: ASCII only, IPv6 only in brackets, ports from 1 to 65535 without
    leading zeros. Raises :class:`HostError`.
    """
    if not raw.isascii():
        raise HostError("a host on the wire is ASCII: international names are A-labels (xn--…)")
    if raw.startswith(b"["):
        name, bracket, rest = raw.partition(b"]")
        host, port_text = name + bracket, rest.removeprefix(b":")
        has_port = rest.startswith(b":")
        if rest and not has_port:
            raise HostError("only a port may follow the brackets of an IPv6 address")
    else:
        host, colon, port_text = raw.partition(b":")
        has_port = bool(colon)
    if not has_port:
        if default_port is None:
            raise HostError("the port is missing: write host:port")
        return Authority(canonical_host(host.decode("ascii")), default_port)
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:  # noqa: PLR2004 - the port's range
        raise HostError("the port is not a number from 1 to 65535")
    return Authority(canonical_host(host.decode("ascii")), int(port_text))


@dataclass(frozen=True, slots=True)
class HostPattern:
    """``example.com`` exactly, or ``*.example.com`` at any depth below it but not the apex."""

    text: str
    """Canonical: what :meth:`parse` made of the policy's text."""

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern as a policy writes it; raises :class:`HostError` with the way out."""
        base = text.removeprefix("*.")
        if "*" in base:
            raise HostError(
                f"{text!r}: a pattern is a whole name, or *. and a whole name; write every host out"
            )
        if "://" in base or "/" in base:
            raise HostError(f"{text!r}: a host stands here, without scheme and path")
        host = canonical_host(base)
        is_address = ":" in host or _is_ipv4(host)
        if not is_address and _NUMERIC.fullmatch(host):
            raise HostError(f"{text!r}: write an address as a dotted quad or as IPv6")
        if base == text:
            return cls(host)
        if is_address:
            raise HostError(f"{text!r}: nothing is below an address; write the address alone")
        if _public_suffixes().is_public(host):
            raise HostError(
                f"{text!r}: anyone can register names below the public suffix {host!r}; "
                f"write the domain, for example *.your-domain.{host}"
            )
        return cls("*." + host)

    @property
    def is_wildcard(self) -> bool:
        """Whether the pattern is of the ``*.`` form."""
        return self.text.startswith("*.")

    def matches(self, host: str) -> bool:
        """Whether the canonical ``host`` is one of the pattern's."""
        if self.text.startswith("*."):
            # The dot is part of the suffix: *.good.example is not evilgood.example.
            return host.endswith(self.text[1:]) and len(host) > len(self.text) - 1
        return host == self.text

    def covers(self, other: HostPattern) -> bool:
        """Whether every host that ``other`` matches is matched here too."""
        if not other.is_wildcard:
            return self.matches(other.text)
        return self.is_wildcard and other.text.endswith(self.text[1:])


def _canonical_ipv6(text: str) -> str:
    if "%" in text:
        raise HostError(f"{text!r}: an address with a zone is not a host")
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise HostError(
            f"{text!r} is not a host name: brackets and colons stand only in IPv6 addresses, "
            "and a port is written elsewhere"
        ) from None


def _is_ipv4(name: str) -> bool:
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True


def _to_a_labels(text: str) -> str:
    try:
        encoded = idna.encode(text, uts46=True, std3_rules=True)
    except UnicodeError as error:  # idna's own among them
        raise HostError(f"{text!r} is not an international domain name: {error}") from None
    return encoded.decode("ascii").lower()


def _check_name(name: str, text: str) -> None:
    if not name:
        raise HostError("the host is empty")
    if len(name) > _NAME_BYTES:
        raise HostError(f"the host is longer than {_NAME_BYTES} characters")
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            raise HostError(
                f"{text!r} is not a host name: {label!r} is not a label of letters, digits and "
                "inner hyphens of at most 63 characters"
            )
        if label.startswith("xn--"):
            try:
                idna.ulabel(label)
            except UnicodeError:
                raise HostError(f"{text!r}: {label!r} is not a valid A-label") from None


@cache
def _public_suffixes() -> PublicSuffixList:
    # Private suffixes (github.io, s3.amazonaws.com) count: below them, too, anyone gets names.
    return PublicSuffixList(accept_unknown=True)
