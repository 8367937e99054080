"""nginx as one more parser: what it read is what it logs of each request."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxy import START_SECONDS

# The front reads requests, bodies whole, and hands them to the back, which answers without a word.
CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    log_format seen escape=json
        '{{"status": $status, "seen": ["$request_method", "$request_uri", "$http_host",'
        ' "$request_body"]}}';
    access_log off;
    client_body_buffer_size 1m;
    lingering_close off; proxy_ignore_client_abort on;
    server {{
        listen unix:{folder}/front;
        access_log {folder}/seen seen;
        location / {{ proxy_pass http://unix:{folder}/back:; }}
    }}
    server {{
        listen unix:{folder}/back;
        location / {{ return 204; }}
    }}
}}
"""


@contextmanager
def run_nginx(program: str, folder: Path) -> Iterator[Nginx]:
    """Start it; its files go to ``folder``."""
    file = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    file.write_text(user + CONFIGURATION.format(folder=folder))
    with subprocess.Popen([program, "-c", str(file), "-e", str(folder / "error.log")]) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / "back").exists():
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield Nginx(folder)
        finally:
            process.terminate()


class Nginx:
    """Asks a running nginx."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = 0

    def ask(self, raw: bytes) -> list[tuple[int, list[str]]]:
        """(status, [method, target, host, body]) of each request that it took ``raw`` for."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS)
            connection.connect(str(self._folder / "front"))
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        log = (self._folder / "seen").read_bytes()
        fresh, self._read = log[self._read :], len(log)
        lines = [json.loads(line.decode("latin-1")) for line in fresh.splitlines()]
        return [(line["status"], line["seen"]) for line in lines]
