"""The admin server's socket: TCP, or a Unix socket that only the proxy's user may open."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

SOCKET_MODE = 0o600
BACKLOG = 64

type Address = tuple[str, int] | Path
"""A host and port (0: any free one), or a Unix socket's path."""


class ListenError(OSError):
    """The address cannot be listened on; the message says why and what to do."""


def bind(address: Address) -> socket.socket:
    """Give a listening socket; raises ListenError."""
    return _bind_unix(address) if isinstance(address, Path) else _bind_tcp(*address)


def bound_address(listener: socket.socket) -> Address:
    """Give where a socket made by :func:`bind` really listens."""
    name = listener.getsockname()
    return Path(name) if isinstance(name, str) else (name[0], name[1])


def remove_socket(path: Path, listener_inode: int | None) -> None:
    """Remove the Unix socket ``path``, unless another process has put its own there."""
    try:
        if path.stat().st_ino == listener_inode:
            path.unlink()
    except FileNotFoundError:
        pass


def _reason(error: OSError) -> str:
    # The library adds the address in its own words; name look-ups have negative numbers.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else "no such address"


def _bind_tcp(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ListenError(
            f"{host}:{port}: cannot listen for admin requests ({_reason(error)}). "
            "Give another --admin address; port 0 takes any free one."
        ) from error


def _bind_unix(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        # Before listen(), so that nobody connects while the mode is still the umask's.
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"{path}: cannot listen for admin requests ({error.strerror or error}). "
            "Give a short path in a folder that this user may write to."
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{path}: is there already and is no socket. Give another --admin path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ListenError(f"{path}: cannot be looked at ({error.strerror}).") from error
        else:
            raise ListenError(
                f"{path}: another process listens there. Stop it or give another --admin path."
            )
