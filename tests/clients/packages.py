"""Package indexes on loopback: a PEP 503 one with a wheel, and an npm registry with a tarball."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from base64 import b64encode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import StreamWriter

    from tests.support.upstream import Handler, Received

WHEEL = "acme_tool-1.0-py3-none-any.whl"
TARBALL = "left-1.0.0.tgz"


def serve_python_index(authorization: str) -> Handler:
    """A PEP 503 index that holds ``acme-tool`` 1.0 and wants ``authorization`` for all of it."""
    wheel = build_wheel()
    page = (
        "<!DOCTYPE html><html><body>"
        f'<a href="../../files/{WHEEL}#sha256={hashlib.sha256(wheel).hexdigest()}">{WHEEL}</a>'
        "</body></html>"
    ).encode()
    pages = {
        "/simple/acme-tool/": (b"text/html", page),
        f"/files/{WHEEL}": (b"application/octet-stream", wheel),
    }
    return _serve(pages, authorization, b'Basic realm="index"')


def serve_npm_registry(host: str, authorization: str) -> Handler:
    """An npm registry that holds ``@acme/left`` 1.0.0 and wants ``authorization``."""
    tarball = build_tarball()
    dist = {
        "tarball": f"https://{host}/@acme/left/-/{TARBALL}",
        "integrity": "sha512-" + b64encode(hashlib.sha512(tarball).digest()).decode(),
    }
    version = {"name": "@acme/left", "version": "1.0.0", "dist": dist}
    packument = {
        "name": "@acme/left",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": version},
    }
    pages = {
        "/@acme%2fleft": (b"application/json", json.dumps(packument).encode()),
        f"/@acme/left/-/{TARBALL}": (b"application/octet-stream", tarball),
    }
    return _serve(pages, authorization, b"Bearer")


def build_wheel() -> bytes:
    """The smallest wheel that pip and uv install."""
    name = "acme_tool-1.0.dist-info"
    files = {
        "acme_tool.py": "ANSWER = 42\n",
        f"{name}/METADATA": "Metadata-Version: 2.1\nName: acme-tool\nVersion: 1.0\n",
        f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{name}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in (files | {f"{name}/RECORD": record}).items():
            archive.writestr(path, text)
    return buffer.getvalue()


def build_tarball() -> bytes:
    """The smallest tarball that npm installs."""
    files = {
        "package/package.json": json.dumps({"name": "@acme/left", "version": "1.0.0"}),
        "package/index.js": "module.exports = 42\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _serve(pages: dict[str, tuple[bytes, bytes]], authorization: str, challenge: bytes) -> Handler:
    async def handler(received: Received, writer: StreamWriter) -> None:
        kind, body = pages.get(received.target, (b"text/plain", b""))
        status, extra = (b"200 OK", b"") if body else (b"404 Not Found", b"")
        if received.header("authorization") != authorization:
            status, body = b"401 Unauthorized", b""
            extra = b"WWW-Authenticate: " + challenge + b"\r\n"
        writer.write(
            b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"
            % (status, kind, len(body), extra, body if received.method != "HEAD" else b"")
        )

    return handler
