"""TLS contexts are made once, and not while a request waits."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream, answer_echo

from understudy.express.contexts import upstream_context

PROGRAM = [sys.executable, str(Path(__file__).parent / "programs" / "with_roots_noted.py")]
POLICY: dict[str, Any] = {"allow": [{"name": "good", "hosts": ["good.example"]}]}


def test_one_trust_has_one_context() -> None:
    pem = trustme.CA().cert_pem.bytes().decode()
    context = upstream_context(pem)
    # Another policy brings the same text, not the same string.
    assert upstream_context(str(pem.encode(), "ascii")) is context
    assert upstream_context(None) is not context
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.engine("express")
def test_the_first_request_of_a_policy_finds_its_roots_parsed(
    start_upstream: Callable[..., Upstream], start_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    roots = tmp_path / "roots"
    good = start_upstream("good.example", handler=answer_echo)
    proxy = start_proxy(
        POLICY,
        upstreams=[good],
        program=PROGRAM,
        arguments=["--workers", "1"],
        environ={"ROOTS": str(roots)},
    )

    def parsed() -> int:
        return len(roots.read_text().splitlines())

    assert parsed() == 1
    for _ in range(2):
        assert proxy.request("GET", "good.example", "/a").status == 200
    assert parsed() == 1

    policy = yaml.safe_load(proxy.policy_file.read_text())
    both = tmp_path / "both.pem"
    more = trustme.CA().cert_pem.bytes()
    both.write_bytes(Path(policy["upstream"]["ca_file"]).read_bytes() + more)
    policy["upstream"]["ca_file"] = str(both)
    proxy.write_policy(policy)
    proxy.wait_until(lambda: parsed() == 2)
    assert proxy.request("GET", "good.example", "/a").status == 200
    assert len(good.requests) == 3
    assert parsed() == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ticket_resumes_the_session_with_its_own_host_as_often_as_it_is_shown(
    start_upstream: Callable[..., Upstream],
    start_proxy: Callable[..., Proxy],
    version: ssl.TLSVersion,
) -> None:
    good = start_upstream("good.example", handler=answer_echo)
    # With more, another worker than the one that gave the ticket may be asked.
    proxy = start_proxy(POLICY, upstreams=[good], arguments=["--workers", "1"])
    context = ssl.create_default_context(cafile=proxy.ca_cert)
    context.minimum_version = context.maximum_version = version
    session = None
    for turn in range(3):
        with proxy.wire() as wire:
            assert wire.connect("good.example:443").status == 200
            tls = context.wrap_socket(wire.socket, server_hostname="good.example", session=session)
            wire.socket = tls
            assert tls.session_reused == (turn > 0)
            assert wire.request("GET /a HTTP/1.1\nHost: good.example").status == 200
            session = session or tls.session
    assert len(good.requests) == 3
    assert [line["verdict"] for line in proxy.verdicts()] == ["allow"] * 3
