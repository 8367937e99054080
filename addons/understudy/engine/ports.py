"""Ports to listen on: what a host's addresses are, and sockets for them."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from understudy.engine.settings import format_address

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that pass by themselves."""
NO_DESCRIPTORS = (
    "no file descriptors are left: new connections wait. Raise the limit (ulimit -n), or lower "
    "limits.max_connections in the policy."
)


def bind_all(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Sockets bound to every address of ``host``, on one port; OSError where one cannot be."""
    with contextlib.ExitStack() as made:
        bound = []
        for family, address in addresses_of(host, port):
            one = made.enter_context(make_socket(family))
            one.settimeout(0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind((address, port))
            port = one.getsockname()[1]
            bound.append(one)
        made.pop_all()
    return bound


def addresses_of(host: str, port: int) -> list[tuple[int, str]]:
    """Each address of ``host`` with its family; OSError where there is none."""
    with contextlib.suppress(ValueError):
        version = ipaddress.ip_address(host).version
        return [(socket.AF_INET6 if version == 6 else socket.AF_INET, host)]  # noqa: PLR2004 - IPv6
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def make_socket(family: int) -> socket.socket:
    """A TCP socket of a family; one for IPv6 is for nothing else, as asyncio's servers have it."""
    made = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


def cannot_listen(listen: tuple[str, int], number: int | None) -> OSError:
    """The sentence for the operator; ``number`` is the errno."""
    # Errors of name look-ups have negative numbers.
    why = os.strerror(number) if number is not None and number > 0 else "no such address"
    return OSError(
        f"{format_address(listen)}: cannot listen for agents ({why}). "
        "Give another --listen address; port 0 takes any free one."
    )
