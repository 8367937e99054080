"""git's own http-backend as an upstream: 401 first, then Basic, then the repository."""

from __future__ import annotations

import asyncio
import subprocess
from asyncio import StreamWriter
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.upstream import Handler, Received

CHUNK_BYTES = 16384


def basic(username: str, password: str) -> str:
    """The one Authorization header that the server takes."""
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def make_repository(folder: Path, git: str) -> Path:
    """A bare repository that can be pushed to, ``acme/tool.git`` below ``folder``."""
    repository = folder / "acme" / "tool.git"
    repository.mkdir(parents=True)
    for arguments in (
        ["init", "--quiet", "--bare", "--initial-branch=main"],
        ["config", "http.receivepack", "true"],
    ):
        subprocess.run([git, *arguments], cwd=repository, check=True, env={"HOME": str(folder)})
    return repository


def serve_git(folder: Path, git: str, authorization: str) -> Handler:
    """A handler for every repository below ``folder``."""

    async def handler(received: Received, writer: StreamWriter) -> None:
        if received.header("authorization") != authorization:
            writer.write(
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n"
                b'WWW-Authenticate: Basic realm="git"\r\n\r\n'
            )
            return
        backend = await asyncio.create_subprocess_exec(
            git,
            "http-backend",
            env=_cgi_variables(received, folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await backend.communicate(received.body)
        await _answer(output, writer)

    return handler


def _cgi_variables(received: Received, folder: Path) -> dict[str, str]:
    path, _, query = received.target.partition("?")
    return {
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": received.method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": received.header("content-type") or "",
        "HTTP_CONTENT_ENCODING": received.header("content-encoding") or "",
        "GIT_PROTOCOL": received.header("git-protocol") or "",
    }


async def _answer(cgi: bytes, writer: StreamWriter) -> None:
    """Write CGI output (RFC 3875 6.2) as a chunked response."""
    head, _, body = cgi.partition(b"\r\n\r\n")
    fields = head.split(b"\r\n")
    statuses = [field[7:].strip() for field in fields if field.startswith(b"Status:")]
    lines = [b"HTTP/1.1 " + (statuses or [b"200 OK"])[0], b"Transfer-Encoding: chunked"]
    lines += [field for field in fields if not field.startswith(b"Status:")]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    for start in range(0, len(body), CHUNK_BYTES):
        piece = body[start : start + CHUNK_BYTES]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
