"""Where secrets come from: environment variables and files."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

MAXIMUM_BYTES = 64 * 1024
# Younger than this, a file may change again without a change of its time stamp.
_SETTLED_AFTER_SECONDS = 0.1
_ALLOWED = re.compile(r"[\x20-\x7e]+")


class SecretError(Exception):
    """A secret that cannot be had. The text says why and never holds the value."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A secret as its source gave it."""

    value: str = field(repr=False)
    version: object
    """Equal to :meth:`Source.version` as long as the source holds the same."""


class Source(Protocol):
    """One kind of place that holds secrets."""

    def version(self, locator: str) -> object:
        """What changes when the secret changes; quick. None: not known, so fetch again."""

    async def fetch(self, locator: str) -> Fetched:
        """The secret at ``locator``. Raises :class:`SecretError`."""


class EnvironmentSource:
    """Secrets in the proxy's own environment; they change only with a restart."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def version(self, locator: str) -> object:
        """Whether the variable is set."""
        return locator in self._environ

    async def fetch(self, locator: str) -> Fetched:
        """The variable's value. Raises :class:`SecretError`."""
        value = self._environ.get(locator)
        if value is None:
            raise SecretError(f"the environment variable {locator} is not set")
        return Fetched(checked(value, f"the environment variable {locator}"), version=True)


class FileSource:
    """Secrets in files, mounted Secrets included: read again when the file behind a path changes.

    One trailing newline is taken off.
    """

    def version(self, locator: str) -> object:
        """Identity, time and size of the file behind the path, symlinks followed."""
        try:
            return _version(os.stat(locator))  # noqa: PTH116 - one system call on the request's path
        except OSError:
            return None

    async def fetch(self, locator: str) -> Fetched:
        """The file's content. Raises :class:`SecretError`."""
        what = f"the file {locator}"
        try:
            # Without O_NONBLOCK, a FIFO would hold up every request.
            descriptor = os.open(locator, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SecretError(f"{what} cannot be read: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SecretError(f"{what} is not a regular file")
            data = _read(descriptor)
        except OSError as error:
            raise SecretError(f"{what} cannot be read: {error.strerror}") from None
        finally:
            os.close(descriptor)
        if len(data) > MAXIMUM_BYTES:
            raise SecretError(f"{what} is larger than {MAXIMUM_BYTES} bytes")
        text = data.decode("latin-1")
        text = text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
        return Fetched(checked(text, what), _version(status))


def sources(environ: Mapping[str, str]) -> dict[str, Source]:
    """Every kind of source by the name that a policy writes."""
    return {"env": EnvironmentSource(environ), "file": FileSource()}


def checked(value: str, what: str) -> str:
    """``value``, if it can stand in a header. Raises :class:`SecretError` with ``what`` in it."""
    if not value:
        raise SecretError(f"{what} is empty")
    if len(value) > MAXIMUM_BYTES:
        raise SecretError(f"{what} is larger than {MAXIMUM_BYTES} bytes")
    if "\n" in value or "\r" in value:
        raise SecretError(f"{what} holds more than one line; a secret is one line")
    if not _ALLOWED.fullmatch(value):
        raise SecretError(f"{what} holds control characters or characters outside ASCII")
    if value != value.strip(" "):
        raise SecretError(f"{what} begins or ends with a space")
    return value


def _read(descriptor: int) -> bytes:
    """Read to the end, or one byte more than a secret may have."""
    data = b""
    while len(data) <= MAXIMUM_BYTES:
        chunk = os.read(descriptor, MAXIMUM_BYTES + 1 - len(data))
        if not chunk:
            break
        data += chunk
    return data


def _version(status: os.stat_result) -> object:
    # Not the time of modification, which whoever writes a file may set as well.
    if abs(time.time() - status.st_ctime) < _SETTLED_AFTER_SECONDS:
        return None
    return status.st_ctime_ns, status.st_dev, status.st_ino, status.st_size
