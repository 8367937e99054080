"""A proxy of `github.com/elazarl/goproxy`, built where Go is there: Go's own HTTP and TLS."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import trustme

SOURCE = Path(__file__).parent / "go"
BINARY = SOURCE / "goproxy-bench"
"""Kept for the next run; git ignores it."""


def missing() -> str | None:
    """Why it cannot be measured, or None; builds it if need be."""
    if shutil.which("go") is None and not BINARY.exists():
        return "Go is not installed."
    if BINARY.exists() and BINARY.stat().st_mtime > (SOURCE / "main.go").stat().st_mtime:
        return None
    build = ["go", "build", "-o", str(BINARY), "."]
    done = subprocess.run(build, cwd=SOURCE, capture_output=True, text=True, check=False)
    return f"go build failed: {done.stderr.strip()[-300:]}" if done.returncode else None


def prepare(
    folder: Path, port: int, upstream_ca: str, placeholder: str, secret: str
) -> tuple[str, list[str | Path]]:
    """Write its CA; returns the CA file that its clients must trust, and the command."""
    ca = trustme.CA()
    trusted, key = folder / "ca-cert.pem", folder / "ca-key.pem"
    ca.cert_pem.write_to_path(str(trusted))
    ca.private_key_pem.write_to_path(str(key))
    address = f"127.0.0.1:{port}"
    return str(trusted), [BINARY, address, trusted, key, upstream_ca, placeholder, secret]
