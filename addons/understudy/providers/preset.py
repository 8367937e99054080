"""What is known about each provider: hosts, carriers, key shape, and the variables clients read.

The facts are data, one YAML file a provider beside this module; the file's name is the provider's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from understudy.credentials.carriers import Carrier
from understudy.credentials.shapes import Alphabet, PlaceholderShape

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["llm", "forge", "registry", "index"]


@dataclass(frozen=True, slots=True)
class ProviderPreset:
    """One provider, as its YAML file describes it."""

    name: str
    title: str
    kind: Kind
    hosts: tuple[str, ...]
    """Empty: the policy gives them."""
    carriers: tuple[Carrier, ...]
    """Where its clients put the key; the first is the one the proxy injects in."""
    optional_carriers: tuple[Carrier, ...]
    """Accepted only where a connection lists them; a credential there counts all the same."""
    shape: PlaceholderShape
    variables: tuple[str, ...]
    """Environment variables that give a client its key; a sandbox gets the placeholder in all."""
    alternative_variables: tuple[str, ...]
    """Others that a client reads a key from: removed from a sandbox, never set."""
    base_url_variables: tuple[str, ...]
    """Environment variables that point a client at another address."""
    model_routes: tuple[tuple[str, str], ...]
    """(method, path pattern) of its model API: all that a gateway is opened for."""


@cache
def provider_presets() -> Mapping[str, ProviderPreset]:
    """Every provider by name, in name order; read once."""
    folder = files(__package__)
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            preset = read_preset(entry.name.removesuffix(".yaml"), entry.read_text("utf-8"))
            found[preset.name] = preset
    return MappingProxyType(found)


def read_preset(name: str, text: str) -> ProviderPreset:
    """Make a preset of a file's text. Raises ValueError where it does not fit the schema."""
    document = _Document.model_validate(yaml.safe_load(text))
    return ProviderPreset(
        name=name,
        title=document.title,
        kind=document.kind,
        hosts=document.hosts,
        carriers=tuple(Carrier.parse(carrier) for carrier in document.carriers),
        optional_carriers=tuple(Carrier.parse(carrier) for carrier in document.optional_carriers),
        shape=PlaceholderShape(**document.placeholder.model_dump()),
        variables=document.variables,
        alternative_variables=document.alternative_variables,
        base_url_variables=document.base_url_variables,
        model_routes=tuple(parse_route(route) for route in document.model_routes),
    )


def parse_route(text: str) -> tuple[str, str]:
    """Split ``POST /v1/messages``. Raises ValueError where it is not a method and a path."""
    method, space, path = text.partition(" ")
    if not space or not method.isupper() or not path.startswith("/") or " " in path:
        raise ValueError(f"expected a method and a path pattern, found {text!r}")
    return method, path


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# YAML has lists where the model has tuples.
type _Tuple[T] = Annotated[tuple[T, ...], Field(strict=False)]


class _Placeholder(_Strict):
    prefix: str
    length: int
    alphabet: Alphabet = "alphanumeric"
    checksum: Literal["crc32-base62"] | None = None


class _Document(_Strict):
    title: str
    kind: Kind
    hosts: _Tuple[str]
    carriers: _Tuple[dict[str, object]] = Field(min_length=1)
    optional_carriers: _Tuple[dict[str, object]] = ()
    placeholder: _Placeholder
    variables: _Tuple[str] = Field(min_length=1)
    alternative_variables: _Tuple[str] = ()
    base_url_variables: _Tuple[str] = ()
    model_routes: _Tuple[str] = ()
