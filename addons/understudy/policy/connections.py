"""Connections as the file writes them, made into what judgements read."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from understudy.credentials.carriers import Carrier
from understudy.policy.document import SECRET_SOURCES
from understudy.policy.hosts import HostPattern
from understudy.policy.model import Connection, SecretReference
from understudy.policy.problems import nearest
from understudy.providers.preset import provider_presets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from understudy.policy.document import ConnectionDocument, SecretDocument
    from understudy.policy.tree import NodePath
    from understudy.providers.preset import ProviderPreset

    type Complain = Callable[[NodePath, str], None]
    """Reports an error about a field of the entry: (its path within, message)."""


def build_connection(
    name: str, document: ConnectionDocument, folder: Path, complain: Complain
) -> Connection | None:
    """Resolve one connection; None where ``complain`` was called.

    Relative secret files are looked up in ``folder``, the policy's own.
    """
    complaints: list[NodePath] = []

    def refuse(field: NodePath, message: str) -> None:
        complaints.append(field)
        complain(field, message)

    preset = _preset_of(document, refuse)
    hosts = _hosts_of(document, preset, refuse)
    carriers = _carriers_of(document, preset, refuse)
    secret = _secret_of(document, folder, refuse)
    if document.auth is not None:
        for field in ("inject", "placeholder"):
            if getattr(document, field) is not None:
                refuse((field,), "auth: {type: none} has no credential, so this means nothing")
    if complaints:
        return None
    watched = (*carriers, *(preset.carriers + preset.optional_carriers if preset else ()))
    return Connection(
        name=name,
        provider=document.provider,
        hosts=hosts,
        carriers=carriers,
        secret=secret,
        inject_always=document.inject == "always",
        allow_foreign_credentials=document.allow_foreign_credentials,
        placeholder=document.placeholder,
        credential_headers=frozenset(
            carrier.header.decode("ascii") for carrier in watched if carrier.header
        ),
        credential_queries=frozenset(
            carrier.name for carrier in watched if carrier.kind == "query" and carrier.name
        ),
    )


def overlapping_placeholders(
    connections: Iterable[Connection],
) -> list[tuple[Connection, Connection]]:
    """Return the pairs of which one placeholder is, or stands within, the other."""
    return [
        (one, other)
        for one, other in combinations(connections, 2)
        if one.placeholder
        and other.placeholder
        and (one.placeholder in other.placeholder or other.placeholder in one.placeholder)
    ]


def _preset_of(document: ConnectionDocument, refuse: Complain) -> ProviderPreset | None:
    if document.provider is None:
        if document.hosts is None:
            refuse((), "a connection needs a provider, or hosts of its own")
        return None
    presets = provider_presets()
    preset = presets.get(document.provider)
    if preset is None:
        found = document.provider[:60]
        hint = nearest(found, presets)
        refuse(("provider",), f"there is no provider {found!r}.{hint}")
    return preset


def _hosts_of(
    document: ConnectionDocument, preset: ProviderPreset | None, refuse: Complain
) -> tuple[HostPattern, ...]:
    if document.hosts is not None:
        return tuple(document.hosts)
    if preset is None:
        return ()
    if not preset.hosts:
        refuse((), f"the hosts of {preset.name} differ from one user to the next: write hosts")
    return tuple(HostPattern.parse(host) for host in preset.hosts)


def _carriers_of(
    document: ConnectionDocument, preset: ProviderPreset | None, refuse: Complain
) -> tuple[Carrier, ...]:
    if document.carriers is not None:
        return tuple(document.carriers)
    if preset is not None:
        return preset.carriers
    if document.auth is None and document.provider is None and document.hosts is not None:
        refuse((), "hosts without a provider need carriers, for example [{bearer: true}]")
    return (Carrier("bearer"),)


def _secret_of(
    document: ConnectionDocument, folder: Path, refuse: Complain
) -> SecretReference | None:
    if document.auth is not None:
        if document.secret is not None:
            refuse(("secret",), "auth: {type: none} sends no credential: keep one of the two")
        return None
    if document.secret is None:
        refuse((), "a connection needs a secret, or auth: {type: none}")
        return None
    given = [source for source in SECRET_SOURCES if getattr(document.secret, source) is not None]
    if len(given) != 1:
        expected = ", ".join(SECRET_SOURCES)
        refuse(("secret",), f"expected exactly one source of: {expected}; found {len(given)}")
        return None
    return _reference(document.secret, given[0], folder)


def _reference(document: SecretDocument, source: str, folder: Path) -> SecretReference:
    locator: str = getattr(document, source)
    if source == "file":
        locator = str(folder / locator)
    if document.max_age_seconds is None:
        return SecretReference(source, locator)
    return SecretReference(source, locator, document.max_age_seconds)
