"""Invariant 15: label values come from the policy and from us, never from a client."""

from __future__ import annotations

import re
import sys

import pytest
from tests.support.client import REFUSED
from tests.support.scene import Scene
from tests.support.world import POLICY

from understudy.audit.log import RESULTS
from understudy.reasons import Reason

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
RULES = {rule["name"] for rule in (*POLICY["allow"], *POLICY["deny"])} | {"none"}
CONNECTIONS = {*POLICY["connections"], "none"}
CARRIERS = {"header:x-api-key", "header:authorization", "basic:password", "query:key"}
KNOWN = {
    "verdict": {"allow", "deny"},
    "reason": {str(reason) for reason in Reason},
    "rule": RULES,
    "connection": CONNECTIONS,
    "carrier": CARRIERS,
    "code_class": {"1xx", "2xx", "3xx", "4xx", "5xx", "none"},
    "direction": {"sent", "received"},
    "source": {"env", "file"},
    "sink": {"stdout", "file"},
    "result": {"refreshed", "failed", "loaded", "rejected", *RESULTS},
    "version": None,
    "mitmproxy": None,
    "python": {".".join(map(str, sys.version_info[:3]))},
    "digest": None,
    "hook": None,
    "le": None,
}
"""None: constant for a process, or a number of ours."""


def labels(scene: Scene) -> set[tuple[str, str]]:
    return {pair for sample in scene.proxy.metrics() for pair in LABEL.findall(sample)}


@pytest.mark.attack("flood of names")
def test_every_label_value_is_known_whatever_clients_did(scene: Scene) -> None:
    words = ["evil-label", 'x"y', "rule\\n", "GET", "zz"]
    for word in words:
        wire = scene.wire()
        try:
            wire.connect(f"{word}.example:443")
            wire.send(f"{word} http://{word}/ HTTP/1.1\r\nHost: {word}\r\n\r\n".encode())
            wire.read()
        except (*REFUSED, ValueError):
            pass
        scene.request("other.example", f"/{word.encode().hex()}", headers=[("X-Word", word[:4])])
    scene.settle()
    found = labels(scene)
    for name, value in found:
        assert name in KNOWN, name
        known = KNOWN[name]
        assert known is None or value in known, (name, value)
    text = " ".join(f"{name}={value}" for name, value in found)
    assert not any(word in text for word in ("evil-label", "zz"))


def test_every_series_exists_from_the_start(scene: Scene) -> None:
    """A denial that never happened reads 0, so that an alert on it works."""
    samples = scene.proxy.metrics()
    for reason in Reason:
        if reason is not Reason.ALLOWED:
            name = f'understudy_requests_total{{reason="{reason}",rule="none",verdict="deny"}}'
            assert name in samples
    violation = "understudy_credential_violations_total"
    for connection in POLICY["connections"]:
        name = f'{violation}{{connection="{connection}",reason="placeholder_wrong_host"}}'
        assert name in samples
