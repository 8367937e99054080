"""What the name service and the network see, and not only the proxy's process: in namespaces."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.distance import Unavailable
from tests.support.isolation import NameServer, run_isolated
from tests.support.proxy import Proxy
from tests.support.upstream import Upstream

OPEN = "11.22.33.44"
"""Declared by the policy; all others are public or not, and not declared."""
OWN_PUBLIC = ["11.22.33.55", "2606:4700:4700::1111"]
"""Addresses of the machine itself."""
GUARDED = [
    "127.0.0.1", "169.254.169.254", "10.0.0.1", "100.100.100.200", "192.0.2.7",
    "::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::ffff:169.254.169.254",
    "::ffff:0:a9fe:a9fe", "2001:db8::5", "100::5",
]  # fmt: skip
ADDRESSES = [OPEN, *OWN_PUBLIC, *(a for a in GUARDED if not a.startswith(("127.", "::1", "::ff")))]
ZONE = {f"n{number}.example": [address] for number, address in enumerate(GUARDED + OWN_PUBLIC)}
ZONE |= {
    "open.example": [OPEN],
    "alias.example": ["=one.evil.example"],
    "one.evil.example": ["=two.evil.example"],
    "two.evil.example": ["169.254.169.254", "fd00:ec2::254"],
    "all.example": GUARDED,
    "mixed.example": ["169.254.169.254", OPEN, "fd00:ec2::254"],
    "rebinding.example": [OPEN],
    "evil.example": [OPEN],
    "data.evil.example": [OPEN],
}
NAMES = [*(n for n in ZONE if n.startswith("n")), "alias.example", "all.example"]

Work = Callable[[Proxy, NameServer, Upstream], None]


@pytest.fixture
def isolated(
    tmp_path: Path, engine: str, upstream_ca: trustme.CA, upstream_ca_file: Path
) -> Callable[[Work], None]:
    """Run a test in a network of its own: with a proxy, its name service and one upstream."""
    certificate = upstream_ca.issue_cert("open.example", "mixed.example", "rebinding.example")

    def run(work: Work) -> None:
        server = NameServer(dict(ZONE))
        with (
            server.serve(),
            Upstream("open.example", upstream_ca, address=OPEN, certificate=certificate) as up,
        ):
            hosts = [*NAMES, "open.example", "mixed.example", "rebinding.example"]
            policy = {
                "allow": [
                    {"name": "https", "hosts": hosts, "ports": [443, up.port], "paths": ["/v1/**"]},
                    {"name": "plain", "hosts": ["plain.example"], "schemes": ["http"]},
                ],
                "upstream": {"allow_addresses": [f"{OPEN}/32"]},
            }
            complete = complete_policy(policy, [], upstream_ca_file)
            with Proxy(complete, tmp_path / "proxy", engine, names=None) as proxy:
                work(proxy, server, up)

    def start(work: Work) -> None:
        try:
            run_isolated(tmp_path, ADDRESSES, lambda: run(work))
        except Unavailable as reason:
            pytest.skip(str(reason))

    return start


@pytest.mark.attack("unlisted host")
def test_what_is_denied_is_never_looked_up(isolated: Callable[[Work], None]) -> None:
    def work(proxy: Proxy, server: NameServer, up: Upstream) -> None:
        for host in ("evil.example", "data.evil.example", "secret-in-a-name.evil.example"):
            with proxy.wire() as wire:
                assert wire.connect(f"{host}:443").reason == "host_not_allowed"
            with proxy.wire() as wire:
                plain = wire.request(f"GET http://{host}/ HTTP/1.1\nHost: {host}")
                assert plain.reason == "host_not_allowed"
        for port in (22, 25, 53):
            with proxy.wire() as wire:
                assert wire.connect(f"open.example:{port}").reason == "port_not_allowed"
        with proxy.tunnel("open.example") as wire:
            assert wire.request("GET /private HTTP/1.1\nHost: open.example").status == 403
            assert wire.request("GET /v1/x HTTP/1.1\nHost: evil.example").status == 421
        assert server.queries == []
        assert up.connections == 0
        # The witness works: what is allowed is looked up, its own name and no other.
        assert proxy.request("GET", "open.example", "/v1/x", port=up.port).status == 200
        assert server.names() == {"open.example"}
        assert up.connections == 1

    isolated(work)


@pytest.mark.attack("guarded address")
def test_an_allowed_name_at_a_guarded_address_is_looked_up_and_not_dialled(
    isolated: Callable[[Work], None],
) -> None:
    def work(proxy: Proxy, server: NameServer, up: Upstream) -> None:
        with socket.create_server(("::", 443), family=socket.AF_INET6, dualstack_ipv6=True) as door:
            door.setblocking(False)
            for name in NAMES:
                answer = proxy.request("GET", name, "/v1/x")
                assert (answer.status, answer.reason) == (403, "address_denied"), ZONE[name]
                assert not any(a.encode() in answer.head + answer.body for a in ZONE[name])
            with pytest.raises(BlockingIOError):
                door.accept()
            socket.create_connection(("169.254.169.254", 443)).close()
            door.setblocking(True)
            door.accept()[0].close()  # so it would have been seen
        assert set(NAMES) <= server.names()
        assert up.connections == 0

    isolated(work)


@pytest.mark.attack("guarded address")
def test_of_many_addresses_the_declared_one_is_dialled_and_a_rebound_name_is_denied(
    isolated: Callable[[Work], None],
) -> None:
    def work(proxy: Proxy, server: NameServer, up: Upstream) -> None:
        assert proxy.request("GET", "mixed.example", "/v1/x", port=up.port).status == 200
        assert proxy.request("GET", "rebinding.example", "/v1/x", port=up.port).status == 200
        server.zone["rebinding.example"] = ["127.0.0.1"]
        # A new policy looks anew, and keeps no connection that an old answer led to.
        proxy.write_policy(proxy.policy_file.read_text() + "\n# the same\n")
        proxy.wait_for_events("policy.loaded", 2)
        answer = proxy.request("GET", "rebinding.example", "/v1/x", port=up.port)
        assert answer.reason == "address_denied"
        dialled = {arguments[1] for arguments in proxy.spied("socket.connect")}
        assert {place for place in dialled if "443" in place or str(up.port) in place} == {
            f"('{OPEN}', {up.port})"
        }

    isolated(work)
