"""The process itself: its memory and its files are closed to others, and it leaves no core."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import stat
import sys
from typing import TYPE_CHECKING

from understudy.authority.ca import CERTIFICATE_FILE, KEY_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UMASK = 0o077
KEY_LOG_VARIABLES = ("SSLKEYLOGFILE", "MITMPROXY_SSLKEYLOGFILE")
"""Python, OpenSSL's users and mitmproxy write TLS session keys to the file that these name."""
_PR_SET_DUMPABLE = 4  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_PIECE_BYTES = 1 << 20
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeProcess(Exception):  # noqa: N818 - a state of things, shown to a person
    """Secrets would be open to others; the message says where and how to mend it."""


def harden() -> int:
    """Close this process's memory and files to others; gives the umask that was set before.

    On Linux the process is not dumpable afterwards: ``/proc/PID/environ`` and ``mem`` are root's,
    and no debugger of the same user attaches. A program that is executed starts dumpable again,
    with the soft limit for core files at 0.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "this process's memory cannot be closed to others")
    return os.umask(UMASK)


def allow_descriptors() -> None:
    """Let this process open as many files and sockets as it is allowed to.

    Shells give 1024, for programs that use select(2): every connection may take two.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse variables that make TLS libraries write session keys; raises UnsafeProcess."""
    for name in KEY_LOG_VARIABLES:
        if environ.get(name):
            raise UnsafeProcess(
                f"{name} is set: the keys of every TLS connection would be written to a file, "
                "and with them the secrets. Unset it."
            )


def check_state(folder: Path) -> None:
    """Refuse a state directory that others could change; raises UnsafeProcess.

    What is not there yet is made with the right modes. The CA key's own mode is checked where it
    is read.
    """
    _check_owner_and_mode(folder)
    for name in ("ca", f"ca/{KEY_FILE}", f"ca/{CERTIFICATE_FILE}", "placeholders.json"):
        _check_owner_and_mode(folder / name)


def open_public(folder: Path) -> None:
    """Make the folder for what a sandbox may read, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o755)


def runs_as_root() -> bool:
    """Whether modes of files protect nothing from this process's children."""
    return os.geteuid() == 0


def _check_owner_and_mode(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if status.st_uid not in {os.geteuid(), 0}:
        raise UnsafeProcess(
            f"{path}: belongs to another user (uid {status.st_uid}), who could put another CA "
            "there. Give a state directory of this user's own."
        )
    mode = stat.S_IMODE(status.st_mode)
    # Kubernetes mounts an emptyDir as root's with mode 0777; only this container's users see it.
    is_volume = status.st_uid == 0 and os.geteuid() != 0 and path.is_mount()
    if mode & _OTHERS_WRITE and not is_volume:
        raise UnsafeProcess(
            f"{path}: has mode {mode:04o}, so others could put another CA or other placeholders "
            f"there. Run `chmod go-w` on it."
        )


def settle_memory() -> None:
    """Collect what starting has left behind; the collector looks no more through what stays."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        # Large pieces of bodies come and go: given back to the system each time, and zeroed by it
        # when they are asked for again, they would take twice the time. glibc only.
        if hasattr(library, "mallopt"):
            library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_PIECE_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, 4 * _LARGEST_PIECE_BYTES)
