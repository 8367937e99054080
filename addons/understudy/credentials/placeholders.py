"""The placeholders of a policy's connections: minted once, kept, and found in requests."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.credentials.shapes import DEFAULT_SHAPE, PlaceholderShape
from understudy.providers.preset import provider_presets

if TYPE_CHECKING:
    from understudy.policy.model import Connection, Policy

MINIMUM_LENGTH = 24
_SAFE = re.compile(r"[0-9A-Za-z._~-]+")
_FILE_VERSION = 1


class PlaceholderError(Exception):
    """Placeholders that cannot be used; says which and what to do."""


class Placeholders(Mapping[str, str]):
    """Connection name → placeholder; immutable, and quick to find placeholders in bytes.

    Raises :class:`PlaceholderError` for one that is shorter than 24 characters, not safe in a
    header, a URL and JSON, or contained in another.
    """

    def __init__(self, by_connection: Mapping[str, str]) -> None:
        self._by_connection = dict(by_connection)
        for name, text in self._by_connection.items():
            if len(text) < MINIMUM_LENGTH or not _SAFE.fullmatch(text):
                raise PlaceholderError(
                    f"the placeholder of connection {name} must have at least {MINIMUM_LENGTH} "
                    "characters, only letters, digits and . _ ~ -"
                )
        self._refuse_overlaps()
        self._needles = tuple((name, text.encode()) for name, text in self._by_connection.items())

    def __getitem__(self, connection: str) -> str:
        return self._by_connection[connection]

    def get(self, connection: str, default: Any = None) -> Any:
        """The connection's placeholder, or the default."""
        return self._by_connection.get(connection, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_connection)

    def __len__(self) -> int:
        return len(self._by_connection)

    def __repr__(self) -> str:
        return f"<placeholders of {', '.join(self._by_connection) or 'no connection'}>"

    def find_all(self, data: bytes) -> tuple[str, ...]:
        """Names of the connections whose placeholder stands anywhere in ``data``."""
        # One substring search each: for any real number of connections this is quicker than a
        # compiled alternation, and it also finds placeholders that share characters.
        return tuple([name for name, needle in self._needles if needle in data])

    def _refuse_overlaps(self) -> None:
        # An overlap leaves the whole undecided; sorted, a prefix would stand next to its
        # extension, but a substring may stand anywhere.
        for name, text in self._by_connection.items():
            for other, longer in self._by_connection.items():
                if name != other and text in longer:
                    raise PlaceholderError(
                        f"the placeholders of connections {name} and {other} overlap; "
                        "give each connection one of its own"
                    )


class PlaceholderBook:
    """The placeholders in force, kept in a file across restarts; ``path`` None: for this run only.

    ``adopt`` follows the policy: placeholders that it fixes are taken, the rest are minted by the
    provider's shape, once. Those of connections that vanish are kept in the file, so that one
    that returns has its placeholder back.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._minted: dict[str, str] | None = None
        self.current = Placeholders({})

    def adopt(self, policy: Policy) -> None:
        """Take over the connections of ``policy``. Raises :class:`PlaceholderError` or OSError.

        On an error the placeholders in force stay as they were.
        """
        known = self._minted if self._minted is not None else self._read()
        minted = dict(known)
        wanted: dict[str, str] = {}
        for connection in policy.connections.values():
            if connection.secret is None:
                continue
            if connection.placeholder is not None:
                wanted[connection.name] = connection.placeholder
                continue
            shape = shape_of(connection)
            if not _fits(minted.get(connection.name), shape):
                minted[connection.name] = shape.mint()
            wanted[connection.name] = minted[connection.name]
        current = Placeholders(wanted)
        if self._path is not None and not self._read_only and minted != known:
            _write(self._path, minted)
        self._minted = minted
        self.current = current

    def _read(self) -> dict[str, str]:
        if self._path is None:
            return {}
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError:
            raise _corrupt(self._path) from None
        try:
            document = json.loads(text)
        except ValueError:
            raise _corrupt(self._path) from None
        if not isinstance(document, dict) or document.get("version") != _FILE_VERSION:
            raise _corrupt(self._path)
        minted = document.get("placeholders")
        if not isinstance(minted, dict) or not all(isinstance(t, str) for t in minted.values()):
            raise _corrupt(self._path)
        return minted


def load_or_mint(state_dir: Path, policy: Policy) -> Placeholders:
    """The placeholders of ``policy``, read from the state directory and minted where missing."""
    book = PlaceholderBook(state_dir / "placeholders.json")
    book.adopt(policy)
    return book.current


def kept_placeholders(state_dir: Path, policy: Policy) -> Placeholders:
    """The same without writing: what is missing is minted for this one answer."""
    book = PlaceholderBook(state_dir / "placeholders.json", read_only=True)
    book.adopt(policy)
    return book.current


def shape_of(connection: Connection) -> PlaceholderShape:
    """What the connection's placeholder looks like: as its provider's keys do."""
    preset = provider_presets().get(connection.provider) if connection.provider else None
    return preset.shape if preset else DEFAULT_SHAPE


def _fits(placeholder: str | None, shape: PlaceholderShape) -> bool:
    # A connection that now has another provider needs another shape.
    return (
        placeholder is not None
        and placeholder.startswith(shape.prefix)
        and len(placeholder) == len(shape.prefix) + shape.length
    )


def _write(path: Path, minted: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = {"version": _FILE_VERSION, "placeholders": dict(sorted(minted.items()))}
    # mkstemp makes the file 0600; it replaces the old one only when it is whole.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _corrupt(path: Path) -> PlaceholderError:
    return PlaceholderError(
        f"{path} is damaged, so the placeholders that agents hold are not known. Restore it, or "
        "remove it: then new ones are minted, and agents need the new ones."
    )
