"""What a run is told by flags and ``UNDERSTUDY_*`` variables: addresses, files, callers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


type EngineName = Literal["mitmproxy", "express"]

DEFAULT_ENGINE: EngineName = "express"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything but policy; policy lives in files that are reviewed."""

    policy: Path
    state_dir: Path
    listen: tuple[str, int] = ("127.0.0.1", 9080)
    admin: tuple[str, int] | Path | None = ("127.0.0.1", 9081)
    """A TCP address, a Unix socket's path, or None for no admin server."""
    engine: EngineName = DEFAULT_ENGINE
    """What moves the bytes; the stages are the same."""
    workers: int = 1
    """How many processes serve; with 1 it is this one."""
    audit: str = "-"
    """``-`` for standard output, or a file."""
    audit_failure: Literal["fail_closed", "best_effort"] = "fail_closed"
    ca_cert: Path | None = None
    ca_key: Path | None = None
    ready_file: Path | None = None
    caller_token: str | None = field(default=None, repr=False)
    """What callers must present in Proxy-Authorization; None: every caller is known."""
    admin_token: str | None = field(default=None, repr=False)
    drain_seconds: float = 30.0
    """How long requests in progress may go on after SIGTERM."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The process's environment: where ``env`` secrets and the gateway variable are read."""


def parse_address(text: str) -> tuple[str, int]:
    """Read ``host:port``, ``[v6]:port`` or ``:port`` (loopback); ValueError says what is wrong."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ValueError(f"{text!r} is not an address: write HOST:PORT, for example 127.0.0.1:9080")
    return host.strip("[]") or "127.0.0.1", int(port)


def format_address(address: tuple[str, int]) -> str:
    """Write an address as ``host:port``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_admin(text: str) -> tuple[str, int] | Path | None:
    """Read an admin address: ``host:port``, ``unix:PATH`` or ``off``."""
    if text == "off":
        return None
    if text.startswith("unix:"):
        return Path(text.removeprefix("unix:"))
    return parse_address(text)
