"""The options that commands share, and what they are read into."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.cli.console import UsageProblem, log_to_stderr, say
from understudy.engine import settings
from understudy.engine.settings import Settings, parse_address, parse_admin

if TYPE_CHECKING:
    from understudy.policy.load import Loaded


MAX_WORKERS = 256


class Engine(StrEnum):
    """What moves the bytes; the stages are the same."""

    EXPRESS = "express"
    MITMPROXY = "mitmproxy"


DEFAULT_ENGINE = Engine(settings.DEFAULT_ENGINE)


class AuditFailure(StrEnum):
    """What happens to requests when the audit cannot be written."""

    FAIL_CLOSED = "fail_closed"
    BEST_EFFORT = "best_effort"


def _option(flag: str, metavar: str | None, help_text: str, **more: Any) -> Any:
    variable = "UNDERSTUDY_" + flag.removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, envvar=variable, metavar=metavar, help=help_text, **more)


def _audit(default: str) -> Any:
    return _option("--audit", "FILE", "Where audit events go; - is stdout.", show_default=default)


def _proxy_token_file(default: str) -> Any:
    return _option(
        "--proxy-token-file",
        "FILE",
        "Callers must present the token in it, in Proxy-Authorization.",
        show_default=default,
    )


AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")]
Policy = Annotated[
    Path, _option("--policy", "PATH", "A policy file, or a folder of *.yaml.", show_default=False)
]
Listen = Annotated[str, _option("--listen", "HOST:PORT", "Where agents connect; port 0 is any.")]
Admin = Annotated[
    str,
    _option("--admin", "ADDRESS", "Health, metrics and status: HOST:PORT, unix:PATH or off."),
]
StateDir = Annotated[
    Path | None,
    _option(
        "--state-dir",
        "DIR",
        "Keeps the CA, the placeholders and what a sandbox needs.",
        show_default="$XDG_STATE_HOME/understudy or ~/.local/state/understudy",
    ),
]
Audit = Annotated[str | None, _audit("standard output")]
ExecAudit = Annotated[str | None, _audit("a new file in the state directory")]
AuditFailureOption = Annotated[
    AuditFailure,
    _option("--audit-failure", None, "When it cannot be written: refuse requests, or carry on."),
]
EngineOption = Annotated[
    Engine,
    _option("--engine", None, "What moves the bytes: express, or mitmproxy's own core."),
]
Workers = Annotated[
    str, _option("--workers", "N", "How many processes serve; auto: one for each core.")
]
CaCert = Annotated[
    Path | None, _option("--ca-cert", "FILE", "Your own CA certificate, PEM.", show_default="made")
]
CaKey = Annotated[
    Path | None, _option("--ca-key", "FILE", "Its private key, PEM.", show_default="made")
]
ReadyFile = Annotated[
    Path | None,
    _option(
        "--ready-file", "FILE", "Gets the addresses, as JSON, once it serves.", show_default="none"
    ),
]
ProxyTokenFile = Annotated[Path | None, _proxy_token_file("every caller is known")]
ExecProxyTokenFile = Annotated[Path | None, _proxy_token_file("a new token for each run")]
AdminTokenFile = Annotated[
    Path | None,
    _option(
        "--admin-token-file",
        "FILE",
        "Bearer token for all of admin but /healthz and /readyz.",
        show_default="none",
    ),
]
DrainSeconds = Annotated[
    float,
    _option("--drain-seconds", "SECONDS", "How long open requests may go on at the end.", min=0),
]


def resolve_state_dir(state_dir: Path | None) -> Path:
    """Where state lives, absolute: as told, or in XDG's state folder."""
    if state_dir is None:
        base = os.environ.get("XDG_STATE_HOME")
        state_dir = (Path(base) if base else _home() / ".local" / "state") / "understudy"
    return state_dir.absolute()


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise UsageProblem("this user has no home directory", "Give --state-dir.") from None


def check_pair(ca_cert: Path | None, ca_key: Path | None) -> None:
    """Refuse half of a CA."""
    if (ca_cert is None) != (ca_key is None):
        raise UsageProblem("--ca-cert and --ca-key go together", "Give both, or neither.")


def is_missing(path: Path) -> bool:
    """Whether nothing is there; what may not be looked at counts as there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def check_policy_exists(path: Path) -> None:
    """Refuse a path with nothing there: that is a slip of the hand, not a bad policy."""
    if is_missing(path):
        raise UsageProblem(f"{path} does not exist", "Give a policy file, or a folder of *.yaml.")


def load_policy(path: Path) -> Loaded:
    """Read a policy for a command that needs a good one; UsageProblem lists what is wrong."""
    from understudy.policy.load import PolicyError, load

    check_policy_exists(path)
    try:
        return load(path, os.environ)
    except PolicyError as error:
        raise UsageProblem(f"{path} cannot be used", problems=error.problems) from None


def make_settings(
    *,
    policy: Path,
    listen: str,
    admin: str,
    state_dir: Path | None,
    audit: str,
    audit_failure: AuditFailure,
    engine: Engine,
    ca_cert: Path | None,
    ca_key: Path | None,
    ready_file: Path | None,
    proxy_token_file: Path | None,
    admin_token_file: Path | None,
    drain_seconds: float,
    workers: str = "1",
) -> Settings:
    """Check what was given and make Settings of it; UsageProblem says what is wrong."""
    check_pair(ca_cert, ca_key)
    _check_environment()
    if ready_file is not None and is_missing(ready_file.absolute().parent):
        raise UsageProblem(f"--ready-file: there is no folder {ready_file.absolute().parent}")
    try:
        return Settings(
            policy=policy,
            state_dir=resolve_state_dir(state_dir),
            listen=parse_address(listen),
            admin=parse_admin(admin),
            audit=audit,
            engine="express" if engine is Engine.EXPRESS else "mitmproxy",
            workers=_read_workers(workers),
            audit_failure="fail_closed" if audit_failure == "fail_closed" else "best_effort",
            ca_cert=ca_cert,
            ca_key=ca_key,
            ready_file=ready_file,
            caller_token=_read_token(proxy_token_file, "--proxy-token-file"),
            admin_token=_read_token(admin_token_file, "--admin-token-file"),
            drain_seconds=drain_seconds,
            environ=dict(os.environ),
        )
    except ValueError as error:
        raise UsageProblem(str(error)) from None


def _read_workers(text: str) -> int:
    if text == "auto":
        from understudy.workers.cores import count_cores

        count = count_cores()
    elif text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WORKERS:
        count = int(text)
    else:
        raise UsageProblem(
            f"--workers: {text!r} is neither auto nor a number from 1 to {MAX_WORKERS}"
        )
    if count > 1 and sys.platform != "linux":
        raise UsageProblem(
            "--workers: only Linux spreads the connections to one port over several processes",
            "Leave it out, or give 1.",
        )
    return count


def harden_process(*, quiet: bool = False) -> int:
    """Close this process to others before it serves; gives the umask that was set before."""
    from understudy.engine import process

    log_to_stderr()
    if process.runs_as_root() and not quiet:
        say(
            " this runs as root: no file's mode protects the secrets from other programs that do. "
            "Use a user of its own.",
            "warning",
            "yellow",
        )
    return process.harden()


def _check_environment() -> None:
    from understudy.engine.process import UnsafeProcess, check_environment

    try:
        check_environment(os.environ)
    except UnsafeProcess as error:
        raise UsageProblem(f"the proxy cannot start: {error}") from None


def start_problem(error: Exception) -> UsageProblem:
    """What a proxy that cannot start tells the operator."""
    if isinstance(error, OSError) and error.filename is not None:
        return UsageProblem(f"the proxy cannot start: {error.filename}: {error.strerror}")
    return UsageProblem(f"the proxy cannot start: {error}")


def _read_token(path: Path | None, flag: str) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise UsageProblem(f"{flag}: {path} cannot be read: {reason}") from None
    if len(token) < 16:  # noqa: PLR2004 - shorter tokens can be guessed
        raise UsageProblem(
            f"{flag}: the token in {path} is shorter than 16 characters",
            "Make one with: openssl rand -hex 32",
        )
    return token
