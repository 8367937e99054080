"""Drafts of every file, merged and resolved into one policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from understudy.policy.certificates import CertificateError, read_certificates
from understudy.policy.connections import build_connection, overlapping_placeholders
from understudy.policy.document import GatewayDocument
from understudy.policy.gateway import KIND_VARIABLE, URL_VARIABLE, build_gateway
from understudy.policy.model import Connection, Gateway, Limits, Policy, Rule, Upstream
from understudy.policy.problems import Problem
from understudy.policy.rules import build_allow, build_deny, gateway_twin
from understudy.policy.tree import write_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from understudy.policy.document import ConnectionDocument, DenyDocument, PolicyDocument
    from understudy.policy.draft import Draft
    from understudy.policy.tree import NodePath


@dataclass(slots=True)
class Assembly:
    """Merges drafts; afterwards ``problems`` holds what is wrong across and within them."""

    drafts: list[Draft]
    folder: Path
    environ: Mapping[str, str]
    read_file: Callable[[Path], bytes]
    """Reads what the policy names (``ca_file``); raises OSError."""
    problems: list[Problem] = field(default_factory=list)
    places: dict[tuple[str, str], tuple[Draft, NodePath]] = field(default_factory=dict)
    """(section, name) → where it is defined, for ``connections`` and ``rules``."""
    extra_files: dict[Path, bytes] = field(default_factory=dict)
    """Files that the policy names and that were read."""

    def assemble(self, digest: Callable[[], str]) -> Policy:
        """Resolve everything. The result may be used only if ``problems`` holds no error."""
        documents = self._connection_documents()
        used = {document.provider for document in documents.values() if document.provider}
        gateway = self._gateway(used)
        connections = self._connections(documents, gateway)
        deny = self._deny()
        allow = self._allow(connections, gateway, deny)
        mode: tuple[Draft, Literal["enforce", "report"]] | None = self._single(
            "mode", lambda document: document.mode
        )
        limits = self._single("limits", lambda document: document.limits)
        upstream = self._upstream()
        return Policy(
            mode=mode[1] if mode else "enforce",
            connections=connections,
            allow=tuple(allow),
            deny=tuple(deny),
            gateway=gateway,
            upstream=upstream,
            limits=Limits(**limits[1].model_dump(exclude_unset=True)) if limits else Limits(),
            digest=digest(),
        )

    def place_of(self, section: str, name: str) -> tuple[str, int | None, str]:
        """Return file, line and field path of a definition."""
        draft, path = self.places[section, name]
        return draft.tree.file, draft.tree.line(path), write_path(path)

    def _complain(
        self, draft: Draft, path: NodePath, message: str, severity: Literal["error", "warning"]
    ) -> None:
        if path in draft.misspelt:
            return
        tree = draft.tree
        self.problems.append(
            Problem(tree.file, tree.line(path), write_path(path), message, severity)
        )

    def _complainer(self, draft: Draft, path: NodePath) -> Callable[[NodePath, str], None]:
        return lambda within, message: self._complain(draft, (*path, *within), message, "error")

    def _define(self, section: str, name: str, draft: Draft, path: NodePath) -> bool:
        """Note where a name is defined; False, with a problem, where it was defined before."""
        if (section, name) not in self.places:
            self.places[section, name] = draft, path
            return True
        file, line, first = self.place_of(section, name)
        message = f"{name!r} is defined twice, first as {first} in {file}, line {line}; rename one"
        self._complain(draft, path, message, "error")
        return False

    def _single[T](
        self, section: str, get: Callable[[PolicyDocument], T | None]
    ) -> tuple[Draft, T] | None:
        """Return a section that may be given once, and the draft that gives it."""
        giving = [draft for draft in self.drafts if draft.gives(section)]
        for draft in giving[1:]:
            first = giving[0].tree
            line = first.line((section,))
            message = f"{section} is given twice, first in {first.file}, line {line}; keep one"
            self._complain(draft, (section,), message, "error")
        for draft in giving:
            value = get(draft.document) if draft.document else None
            if value is not None:
                return draft, value
        return None

    def _connection_documents(self) -> dict[str, ConnectionDocument]:
        return {
            name: document
            for draft in self.drafts
            if draft.document
            for name, document in draft.document.connections.items()
            if self._define("connections", name, draft, ("connections", name))
        }

    def _connections(
        self, documents: dict[str, ConnectionDocument], gateway: Gateway | None
    ) -> dict[str, Connection]:
        connections = {}
        for name, document in documents.items():
            draft, path = self.places["connections", name]
            connection = build_connection(
                name, document, self.folder, self._complainer(draft, path)
            )
            if connection is None:
                draft.broken_connections.add(name)
                continue
            if gateway is not None and connection.provider in gateway.providers:
                # A client made for the gateway sends the placeholder where the gateway wants it.
                own = gateway.preset.carrier
                added = (own,) if own and own not in connection.carriers else ()
                connection = replace(
                    connection, via_gateway=True, carriers=(*connection.carriers, *added)
                )
            connections[name] = connection
        for one, other in overlapping_placeholders(connections.values()):
            draft, path = self.places["connections", other.name]
            message = f"the placeholder overlaps with that of {one.name!r}; they must be unrelated"
            self._complain(draft, (*path, "placeholder"), message, "error")
        return connections

    def _deny(self) -> list[Rule]:
        rules = []
        for draft in self.drafts:
            entries = (draft.document.deny if draft.document else None) or ()
            for position, document in zip(draft.deny_positions, entries, strict=True):
                path: NodePath = ("deny", position)
                rule = build_deny(document, self._complainer(draft, path))
                if self._names(document, draft, path) and rule is not None:
                    rules.append(rule)
        return rules

    def _allow(
        self, connections: dict[str, Connection], gateway: Gateway | None, deny: list[Rule]
    ) -> list[Rule]:
        rules: list[Rule] = []
        hidden = any(draft.hides_connections for draft in self.drafts)
        broken = {name for draft in self.drafts for name in draft.broken_connections}
        for draft in self.drafts:
            entries = (draft.document.allow if draft.document else None) or ()
            for position, document in zip(draft.allow_positions, entries, strict=True):
                path: NodePath = ("allow", position)
                complain = self._complainer(draft, path)
                if hidden and document.connection:
                    broken.add(document.connection)
                found = build_allow(document, connections, broken, complain)
                if not self._names(document, draft, path) or not found:
                    continue
                rules += found
                connection = found[0].connection
                if gateway is not None and connection is not None and connection.via_gateway:
                    rules.append(gateway_twin(found, gateway, deny))
        return rules

    def _names(self, document: DenyDocument, draft: Draft, path: NodePath) -> bool:
        return self._define("rules", document.name, draft, path)

    def _gateway(self, used: set[str]) -> Gateway | None:
        declared = self._single("gateway", lambda document: document.gateway)
        url = self.environ.get(URL_VARIABLE)
        kind = self.environ.get(KIND_VARIABLE)
        if url:
            if declared is not None:
                message = f"{URL_VARIABLE} is set and replaces this gateway"
                self._complain(declared[0], ("gateway",), message, "warning")
            return self._gateway_of_variables(url, kind or "generic", used)
        if kind:
            message = f"this has no effect without {URL_VARIABLE}"
            self.problems.append(Problem(KIND_VARIABLE, None, "", message, "warning"))
        if declared is None:
            return None
        draft, document = declared
        return build_gateway(
            document,
            used,
            lambda severity, path, message: self._complain(
                draft, ("gateway", *path), message, severity
            ),
        )

    def _gateway_of_variables(self, url: str, kind: str, used: set[str]) -> Gateway | None:
        def report(severity: Literal["error", "warning"], path: NodePath, message: str) -> None:
            variable = KIND_VARIABLE if path[0] == "kind" else URL_VARIABLE
            self.problems.append(Problem(variable, None, "", message, severity))

        return build_gateway(GatewayDocument(url=url, kind=kind), used, report)

    def _upstream(self) -> Upstream:
        declared = self._single("upstream", lambda document: document.upstream)
        if declared is None:
            return Upstream()
        draft, document = declared
        ca_pem = None
        if document.ca_file is not None:
            path = self.folder / document.ca_file
            try:
                self.extra_files[path] = self.read_file(path)
                ca_pem = read_certificates(self.extra_files[path])
            except (OSError, CertificateError) as error:
                cause = (error.strerror or "") if isinstance(error, OSError) else error
                message = f"{path} cannot be used: {cause}"
                self._complain(draft, ("upstream", "ca_file"), message, "error")
        return Upstream(
            ca_pem=ca_pem,
            connect_to=dict(document.connect_to),
            allow_addresses=tuple(document.allow_addresses or ()),
        )
