"""Which addresses may be dialled: the guard against metadata services and internal networks.

An explicit list with its RFCs and not ``ipaddress.is_private``, whose meaning changes between
Python versions. Forms that carry an IPv4 address inside IPv6 are unpacked first. Pure.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_GUARDED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # RFC 791: this network; 0.0.0.0 reaches loopback on Linux
        "10.0.0.0/8",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598: carrier-grade NAT; 100.100.100.200 is a metadata address
        "127.0.0.0/8",  # RFC 1122: loopback
        "168.63.129.16/32",  # Azure's WireServer, a public-looking metadata address
        "169.254.0.0/16",  # RFC 3927: link-local, cloud metadata
        "172.16.0.0/12",  # RFC 1918
        "192.0.0.0/24",  # RFC 6890: protocol assignments; 192.0.0.192 is Oracle's metadata
        "192.0.2.0/24",  # RFC 5737: documentation
        "192.88.99.0/24",  # RFC 7526: deprecated 6to4 relay
        "192.168.0.0/16",  # RFC 1918
        "198.18.0.0/15",  # RFC 2544: benchmarking
        "198.51.100.0/24",  # RFC 5737
        "203.0.113.0/24",  # RFC 5737
        "224.0.0.0/4",  # RFC 5771: multicast
        "240.0.0.0/4",  # RFC 1112: reserved, broadcast included
    )
)
_GUARDED_V6 = tuple(
    IPv6Network(text)
    for text in (
        # Outside 2000::/3 nothing is global unicast (RFC 4291 2.4 and IANA's registry). The parts
        # that lead somewhere are named as well, so that each has its reason.
        "::/3",
        "4000::/2",
        "8000::/1",
        "::/128",  # RFC 4291: unspecified
        "::1/128",  # RFC 4291: loopback
        "::ffff:0:0:0/96",  # RFC 2765: translated IPv4
        "64:ff9b:1::/48",  # RFC 8215: local-use NAT64
        "100::/64",  # RFC 6666: discard
        "100:0:0:1::/64",  # RFC 9780: dummy prefix
        "2001::/23",  # RFC 2928: protocol assignments, Teredo (RFC 4380) and ORCHID included
        "2001:db8::/32",  # RFC 3849: documentation
        "2002::/16",  # RFC 3056: 6to4, whatever IPv4 address it leads to
        "3ffe::/16",  # RFC 3701: the 6bone, given back
        "3fff::/20",  # RFC 9637: documentation
        "5f00::/16",  # RFC 9602: segment routing
        "fc00::/7",  # RFC 4193: unique local; fd00:ec2::254 is a metadata address
        "fe80::/10",  # RFC 4291: link-local
        "fec0::/10",  # RFC 3879: deprecated site-local
        "ff00::/8",  # RFC 4291: multicast
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_V4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 2.5.5.1, deprecated
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # RFC 5214 6.1, in front of the IPv4 address


def is_guarded(address: str) -> bool:
    """Whether the literal ``address`` (as the resolver gives it) may not be dialled by default.

    What cannot be read as an address is guarded.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return True
    return any(_in_guarded_list(form) for form in _forms(parsed))


def is_within(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether what ``address`` reaches is in one of the declared ``networks``."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    reached = _forms(parsed)[-1]
    return any(reached in network for network in networks)


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Read a CIDR block or a single address; ValueError with the reason."""
    return ip_network(text, strict=True)


def _forms(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The address and every IPv4 address it carries; the one that is reached, last."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    number = int(address)
    inner = IPv4Address(number & 0xFFFFFFFF)
    if address in _NAT64:
        return [inner]
    if address.sixtofour is not None:
        return [address, address.sixtofour]
    if address in _V4_COMPATIBLE and number > 1:
        return [address, inner]
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        # Where no such tunnel ends, it is an address as any other.
        return [inner, address]
    return [address]


def _in_guarded_list(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return any(address in network for network in _GUARDED_V4)
    return any(address in network for network in _GUARDED_V6)
