"""What is known about each gateway: paths, credential, and the controls a client may not touch.

The facts are data, one YAML file a gateway beside this module; the file's name is the kind that a
policy writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from understudy.credentials.carriers import Carrier
from understudy.policy.paths import PathPattern
from understudy.providers.preset import parse_route, provider_presets

if TYPE_CHECKING:
    from collections.abc import Mapping

_SETTING = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that the gateway is opened for, as the provider's clients write it."""

    method: str
    path: PathPattern


@dataclass(frozen=True, slots=True)
class ProviderPath:
    """How one provider's requests are written at the gateway."""

    strip: str
    """Beginning of the provider's path that the gateway does not have; empty for none."""
    add: str
    """What stands in front instead; empty for none."""
    headers: tuple[tuple[str, str], ...]
    """Headers that name the provider, unless the policy's gateway sets control headers itself."""
    routes: tuple[Route, ...]

    def rewrite(self, path: str) -> str | None:
        """The provider's path at the gateway; None where ``strip`` does not begin it."""
        if not _begins(path, self.strip):
            return None
        return self.add + path.removeprefix(self.strip)

    def restore(self, path: str) -> str | None:
        """The gateway's path as the provider's clients write it; None where it is not one."""
        if not _begins(path, self.add):
            return None
        return self.strip + path.removeprefix(self.add)


@dataclass(frozen=True, slots=True)
class GatewayPreset:
    """One kind of gateway, as its YAML file describes it."""

    kind: str
    title: str
    base_path: str
    """The path where the gateway's URL has none; may hold ``{settings}``."""
    settings: tuple[str, ...]
    """Names that ``base_path`` asks the policy for, unless the gateway's URL has a path."""
    carrier: Carrier | None
    """Where the gateway's credential goes; None: where the client's own stood."""
    providers: Mapping[str, ProviderPath]
    control_prefixes: tuple[str, ...]
    """Headers that begin so steer the gateway (lower case, ``-`` for ``_``)."""
    harmless_headers: frozenset[str]
    """Control headers that only label a request: dropped, where others are refused."""
    refuse_fields: frozenset[str]
    """JSON fields and query parameters that steer the gateway, in lower case."""
    refuses_all_known: bool
    """Whether what any other kind refuses is refused here too."""

    def supports(self, provider: str) -> bool:
        """Whether this kind of gateway can stand in for ``provider``."""
        return provider in self.providers


@cache
def gateway_presets() -> Mapping[str, GatewayPreset]:
    """Every gateway by kind, in name order; read once."""
    found = {}
    for entry in sorted(files(__package__).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            preset = read_preset(entry.name.removesuffix(".yaml"), entry.read_text("utf-8"))
            found[preset.kind] = preset
    for kind, preset in found.items():
        if preset.refuses_all_known:
            found[kind] = replace(
                preset,
                control_prefixes=tuple(
                    sorted({prefix for each in found.values() for prefix in each.control_prefixes})
                ),
                refuse_fields=frozenset().union(*[each.refuse_fields for each in found.values()]),
            )
    return MappingProxyType(found)


def read_preset(kind: str, text: str) -> GatewayPreset:
    """Make a preset of a file's text. Raises ValueError where it does not fit the schema."""
    document = _Document.model_validate(yaml.safe_load(text))
    entries = {name: entry or _Provider() for name, entry in document.providers.items()}
    if document.other_providers:
        for name, provider in provider_presets().items():
            if provider.kind == "llm":
                entries.setdefault(name, _Provider())
    return GatewayPreset(
        kind=kind,
        title=document.title,
        base_path=document.base_path,
        settings=tuple(_SETTING.findall(document.base_path)),
        carrier=Carrier.parse(document.carrier) if document.carrier else None,
        providers=MappingProxyType(
            {name: _provider_path(name, entry) for name, entry in sorted(entries.items())}
        ),
        control_prefixes=document.control_prefixes,
        harmless_headers=frozenset(document.harmless_headers),
        refuse_fields=frozenset(document.refuse_fields),
        refuses_all_known=document.refuse_all_known,
    )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# YAML has lists where the model has tuples.
type _Tuple[T] = Annotated[tuple[T, ...], Field(strict=False)]
_Prefix = Annotated[str, Field(pattern=r"^(|/[^*?#]*[^*?#/])$")]


class _Provider(_Strict):
    strip: _Prefix = ""
    add: _Prefix = ""
    headers: dict[str, str] = {}
    routes: _Tuple[str] = ()
    """Empty: the provider's own model routes."""


class _Document(_Strict):
    title: str
    base_path: _Prefix = ""
    carrier: dict[str, object] | None = None
    providers: dict[str, _Provider | None] = {}
    other_providers: bool = False
    """Every other LLM provider too, its path unchanged."""
    control_prefixes: _Tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+-$")]] = ()
    harmless_headers: _Tuple[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]] = ()
    refuse_fields: _Tuple[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]] = ()
    refuse_all_known: bool = False


def _provider_path(name: str, entry: _Provider) -> ProviderPath:
    provider = provider_presets().get(name)
    if provider is None:
        raise ValueError(f"providers: there is no provider {name!r}")
    routes = tuple(parse_route(route) for route in entry.routes) or provider.model_routes
    return ProviderPath(
        strip=entry.strip,
        add=entry.add,
        headers=tuple(entry.headers.items()),
        routes=tuple(Route(method, PathPattern.parse(path)) for method, path in routes),
    )


def _begins(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(prefix + "/")
