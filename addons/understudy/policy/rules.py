"""Rules as the file writes them, made into what judgements read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.policy.hosts import HostPattern
from understudy.policy.model import Rule
from understudy.policy.problems import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from understudy.policy.document import AllowDocument, DenyDocument
    from understudy.policy.model import Connection, Gateway, Scheme
    from understudy.policy.tree import NodePath

    type Complain = Callable[[NodePath, str], None]
    """Reports an error about a field of the entry: (its path within, message)."""

_DEFAULT_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
_BOTH_SCHEMES: frozenset[Scheme] = frozenset(_DEFAULT_PORTS)


def build_deny(document: DenyDocument, complain: Complain) -> Rule | None:
    """Make a deny rule; what the file leaves out holds for everything."""
    if document.model_fields_set == {"name"}:
        complain((), "this denies everything: say hosts, ports, schemes, methods or paths")
        return None
    return Rule(
        name=document.name,
        connection=None,
        hosts=tuple(document.hosts) if document.hosts else None,
        ports=frozenset(document.ports) if document.ports else None,
        schemes=frozenset(document.schemes) if document.schemes else _BOTH_SCHEMES,
        methods=frozenset(document.methods) if document.methods else None,
        paths=tuple(document.paths) if document.paths else None,
    )


def build_allow(
    document: AllowDocument,
    connections: Mapping[str, Connection],
    broken_connections: Iterable[str],
    complain: Complain,
) -> list[Rule]:
    """Make the rules of one allow entry; none where it is wrong.

    Without ``ports``, each scheme has its own: that makes two rules where both are allowed.
    """
    connection = None
    if document.connection is not None:
        connection = connections.get(document.connection)
        if connection is None:
            if document.connection not in broken_connections:
                found = document.connection[:60]
                hint = nearest(found, connections)
                complain(("connection",), f"there is no connection {found!r}.{hint}")
            return []
    hosts = _hosts_of(document, connection, complain)
    if (
        hosts is None
        or not _schemes_are_safe(document, complain)
        or not _websocket_can_open(document, complain)
    ):
        return []
    schemes: frozenset[Scheme] = frozenset(document.schemes or ["https"])
    if document.ports:
        places = [(schemes, frozenset(document.ports))]
    else:
        places = [
            (frozenset({scheme}), frozenset({_DEFAULT_PORTS[scheme]}))
            for scheme in sorted(schemes, reverse=True)
        ]
    return [
        Rule(
            name=document.name,
            connection=connection,
            hosts=hosts,
            ports=ports,
            schemes=of,
            methods=frozenset(document.methods) if document.methods else None,
            paths=tuple(document.paths) if document.paths else None,
            websocket=document.websocket,
        )
        for of, ports in places
    ]


def gateway_twin(rules: list[Rule], gateway: Gateway, deny: Iterable[Rule]) -> Rule:
    """Return the rule that lets the same requests go straight to the gateway.

    Deny rules about the provider's hosts hold for the twin too, otherwise the gateway's own
    address would be a way around them.
    """
    first = rules[0]
    return Rule(
        name=first.name,
        connection=first.connection,
        hosts=(HostPattern(gateway.host),),
        ports=frozenset({gateway.port}),
        schemes=frozenset({gateway.scheme}),
        methods=first.methods,
        paths=first.paths,
        at_gateway=True,
        denied_by=tuple(denial for denial in deny if any(_meet(denial, rule) for rule in rules)),
    )


def _hosts_of(
    document: AllowDocument, connection: Connection | None, complain: Complain
) -> tuple[HostPattern, ...] | None:
    if document.hosts is None:
        if connection is None:
            complain((), "an allow rule needs a connection or hosts")
            return None
        return connection.hosts
    if connection is not None:
        for index, host in enumerate(document.hosts):
            if not any(own.covers(host) for own in connection.hosts):
                own_hosts = ", ".join(own.text for own in connection.hosts)
                complain(
                    ("hosts", index),
                    f"{host.text} is not a host of the connection {connection.name!r}, "
                    f"which has {own_hosts}",
                )
                return None
    return tuple(document.hosts)


def _schemes_are_safe(document: AllowDocument, complain: Complain) -> bool:
    plain = "http" in (document.schemes or ())
    if plain and document.connection is not None and not document.allow_plaintext:
        complain(
            ("schemes",),
            "http would show the connection's secret on the way: leave it out, or write "
            "allow_plaintext: true beside it",
        )
        return False
    return True


def _websocket_can_open(document: AllowDocument, complain: Complain) -> bool:
    if not document.websocket:
        return True
    if document.methods and "GET" not in document.methods:
        complain(("websocket",), "a WebSocket begins with GET, which this rule does not allow")
        return False
    if "http" in (document.schemes or ()):
        complain(("websocket",), "WebSockets pass over https only: give http a rule of its own")
        return False
    return True


def _meet(deny: Rule, allow: Rule) -> bool:
    """Whether a request may exist that both rules speak about, methods and paths aside."""
    same_port = deny.ports is None or allow.ports is None or deny.ports & allow.ports
    if not same_port or not deny.schemes & allow.schemes:
        return False
    if deny.hosts is None or allow.hosts is None:
        return True
    return any(
        one.covers(other) or other.covers(one) for one in deny.hosts for other in allow.hosts
    )
