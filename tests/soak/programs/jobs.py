"""The loop of a program of the soak: a job a line on standard input, its outcome on output.

A job is JSON: ``{"mark", "method", "url", "body_bytes"}``; ``{"rest": true}`` closes what is open.
"""

import json
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

KEY = os.environ.get("SEARCH_KEY", "")
KEPT_CHARACTERS = 2000

type Job = dict[str, Any]


def body_of(job: Job) -> bytes:
    """The body that belongs to a mark (as tests/soak/ledger.py makes it)."""
    seed = sha256(job["mark"].encode()).hexdigest().encode()
    size = job.get("body_bytes", 0)
    return (seed * (size // len(seed) + 1))[:size]


def outcome(status: int, headers: Any, body: bytes) -> dict[str, Any]:
    """What came: enough to judge it, small enough for a line."""
    return {
        "status": status,
        "request_id": headers.get("understudy-request-id"),
        "proxy_status": headers.get("proxy-status"),
        "headers": str(headers),
        "size": len(body),
        "digest": sha256(body).hexdigest(),
        "text": body[:KEPT_CHARACTERS].decode("latin-1"),
    }


def serve(open_client: Callable[[], Any], ask: Callable[[Any, Job], dict[str, Any]]) -> None:
    """Do jobs until there are no more; ``open_client`` gives a context manager."""
    while True:
        with open_client() as client:
            for line in iter(sys.stdin.readline, ""):
                job = json.loads(line)
                if "rest" in job:
                    break
                try:
                    done = ask(client, job)
                except Exception as error:  # noqa: BLE001 - the harness judges it
                    done = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(done), flush=True)  # noqa: T201 - that is the protocol
            else:
                return
        print("{}", flush=True)  # noqa: T201 - at rest
