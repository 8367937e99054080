"""squid with ssl-bump, set up for speed: no cache, no log, nothing that the load does not need."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import trustme

CONFIGURATION = """
http_port 127.0.0.1:{port} ssl-bump tls-cert={folder}/ca.pem generate-host-certificates=on \
dynamic_cert_mem_cache_size=4MB
sslcrtd_program {certgen} -s {folder}/certificates -M 4MB
ssl_bump bump all
tls_outgoing_options cafile={upstream_ca} default-ca=off
request_header_access x-api-key deny all
request_header_replace x-api-key {secret}
http_access allow all

# A POST on a kept-alive connection cannot be repeated if it fails; by default each would dial.
server_pconn_for_nonretriable allow all

cache deny all
cache_mem 0 MB
access_log none
cache_log {folder}/cache.log
cache_store_log none
netdb_filename none
pid_filename none
pinger_enable off
coredump_dir none
via off
forwarded_for delete
visible_hostname bench
shutdown_lifetime 0 seconds
max_filedescriptors 16384
"""

CERTGEN = ("/usr/lib/squid/security_file_certgen", "/usr/lib64/squid/security_file_certgen")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def missing() -> str | None:
    """Why there is no squid to measure, or None."""
    program = shutil.which("squid", path=PATH)
    if program is None:
        return "squid is not installed (Debian: apt install squid-openssl)."
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    if "--with-openssl" not in version or _certgen() is None:
        return "This squid was built without ssl-bump (Debian: apt install squid-openssl)."
    return None


def prepare(folder: Path, port: int, upstream_ca: str, secret: str) -> str:
    """Write squid's files; returns the CA file that its clients must trust."""
    ca = trustme.CA()
    (folder / "ca.pem").write_bytes(ca.private_key_pem.bytes() + ca.cert_pem.bytes())
    trusted = folder / "ca-cert.pem"
    ca.cert_pem.write_to_path(str(trusted))
    certgen = _certgen()
    subprocess.run(
        [str(certgen), "-c", "-s", folder / "certificates", "-M", "4MB"],
        check=True,
        capture_output=True,
    )
    text = CONFIGURATION.format(
        port=port, folder=folder, certgen=certgen, upstream_ca=upstream_ca, secret=secret
    )
    if os.geteuid() == 0:  # squid will not serve as root; it leaves root for this user
        user = next(name for name in ("proxy", "squid", "nobody") if _exists(name))
        text += f"cache_effective_user {user}\n"
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user)
    (folder / "squid.conf").write_text(text)
    return str(trusted)


def command(folder: Path) -> list[str | Path]:
    """One process (and its certificate helpers) in the foreground."""
    program = shutil.which("squid", path=PATH)
    assert program is not None
    return [program, "-N", "-f", folder / "squid.conf"]


def _certgen() -> str | None:
    return next((path for path in CERTGEN if Path(path).exists()), None)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
