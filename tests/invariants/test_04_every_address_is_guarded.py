"""Invariant 4: the final address of every dial passes the guard; only declared ones are exempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from tests.conftest import complete_policy
from tests.support.proxy import Proxy
from tests.support.scene import Scene
from tests.support.upstream import Upstream

GUARDED = [
    "127.0.0.1", "127.0.0.53", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200",
    "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::7f00:1", "::a9fe:a9fe",
    "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2001::1", "100::1",
]  # fmt: skip
NAMES = {f"n{number}.example": [[address]] for number, address in enumerate(GUARDED)}
NAMES |= {
    "many.example": [GUARDED],
    "mixed.example": [["169.254.169.254", "127.0.0.2", "10.0.0.1"]],
    "rebinding.example": [["127.0.0.2"], ["169.254.169.254"]],
}


@pytest.fixture(scope="module")
def guarded(
    upstream_ca: trustme.CA,
    upstream_ca_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
) -> Iterator[tuple[Proxy, Upstream]]:
    certificate = upstream_ca.issue_cert("mixed.example", "rebinding.example", "127.0.0.2")
    with Upstream("mixed.example", upstream_ca, certificate=certificate, address="127.0.0.2") as up:
        policy = {
            "allow": [
                {"name": "names", "hosts": [*NAMES, "localhost.example", *literals()]},
                {
                    "name": "declared", "hosts": ["mixed.example", "rebinding.example",
                    "127.0.0.2", "127.0.0.3"], "ports": [up.port],
                },
            ],
            "upstream": {"allow_addresses": ["127.0.0.2/32"]},
        }  # fmt: skip
        complete = complete_policy(policy, [], upstream_ca_file)
        with Proxy(complete, tmp_path_factory.mktemp("guard"), engine, names=NAMES) as proxy:
            yield proxy, up


def literals() -> list[str]:
    return [address for address in GUARDED if ":" not in address]


@pytest.fixture
def dialling(guarded: tuple[Proxy, Upstream]) -> Iterator[Scene]:
    proxy, upstream = guarded
    scene = Scene(proxy, {"mixed.example": upstream})
    yield scene
    scene.leave()


def connects(scene: Scene) -> list[str]:
    return [arguments[1] for arguments in scene.proxy.spied("socket.connect")]


@pytest.mark.attack("guarded address")
@pytest.mark.parametrize("name", [*(f"n{n}.example" for n in range(len(GUARDED))), "many.example"])
def test_allowed_name_with_guarded_addresses_is_not_dialled(dialling: Scene, name: str) -> None:
    before = connects(dialling)
    answer = dialling.request(name)
    line = dialling.verdict()
    assert answer.status == 403
    assert answer.reason == line["reason"] == "address_denied"
    assert connects(dialling) == before
    for address in GUARDED:
        if len(address) > 4:
            assert address.encode() not in answer.head + answer.body


@pytest.mark.attack("guarded address")
@pytest.mark.parametrize("address", literals())
def test_allowed_literal_that_is_guarded_is_not_dialled(dialling: Scene, address: str) -> None:
    before = connects(dialling)
    answer = dialling.request(address)
    assert answer.reason == dialling.verdict()["reason"] == "address_denied"
    assert connects(dialling) == before


@pytest.mark.attack("guarded address")
@pytest.mark.parametrize(
    "spelling",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "0x7f.0.0.1",
     "127.0.0.1.", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]", "127.0.0.01", "①②⑦.0.0.1"],
)  # fmt: skip
def test_other_spellings_of_an_address_are_no_hosts_at_all(dialling: Scene, spelling: str) -> None:
    with dialling.wire() as wire:
        answer = wire.connect(f"{spelling}:443".encode())
        if answer.status == 200:  # canonically an allowed literal: then the guard speaks
            assert spelling == "127.0.0.1."
            answer = wire.start_tls("127.0.0.1").request("GET / HTTP/1.1\nHost: 127.0.0.1")
    assert answer.reason in {"bad_target", "host_not_allowed", "address_denied"}
    assert dialling.verdict()["reason"] == answer.reason
    dialling.expect_nothing_upstream()


@pytest.mark.attack("guarded address")
def test_of_mixed_addresses_only_the_declared_is_dialled(dialling: Scene) -> None:
    port = dialling.upstreams["mixed.example"].port
    before = len(connects(dialling))
    assert dialling.request("mixed.example", port=port).status == 200
    assert connects(dialling)[before:] == [f"('127.0.0.2', {port})"]


@pytest.mark.attack("guarded address")
def test_a_name_that_changes_its_address_is_not_followed(dialling: Scene) -> None:
    """The checked address is the one that is dialled; a second look-up is checked again."""
    port = dialling.upstreams["mixed.example"].port
    before = len(connects(dialling))
    statuses = [dialling.request("rebinding.example", port=port).status for _ in range(5)]
    assert set(statuses) <= {200, 403}
    assert set(connects(dialling)[before:]) <= {f"('127.0.0.2', {port})"}


def test_a_declared_network_exempts_itself_only(dialling: Scene) -> None:
    port = dialling.upstreams["mixed.example"].port
    assert dialling.request("127.0.0.2", port=port).status == 200
    assert dialling.request("127.0.0.3", port=port).reason == "address_denied"


@pytest.mark.attack("own port")
def test_the_proxys_and_the_admins_ports_are_never_dialled(
    start_scene: Callable[..., Scene],
) -> None:
    """Even where the policy declares loopback and every port."""
    policy = {
        "allow": [
            {"name": "all", "hosts": ["127.0.0.1", "self.example"], "schemes": ["http", "https"],
             "ports": list(range(1, 65536))}
        ],
        "upstream": {"allow_addresses": ["127.0.0.0/8"], "connect_to": {}},
    }  # fmt: skip
    scene = start_scene(policy, [], {}, names={"self.example": [["127.0.0.1"]]})
    for address in (scene.proxy.url, scene.proxy.admin_url):
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "self.example"):
            with scene.wire() as wire:
                answer = wire.request(
                    f"GET http://{host}:{port}/metrics HTTP/1.1\nHost: {host}:{port}"
                )
            assert answer.reason == "address_denied"
    scene.settle()
    assert scene.proxy.spied("socket.connect") == []


def test_of_very_many_addresses_only_the_first_are_tried(
    start_scene: Callable[..., Scene],
) -> None:
    addresses = [f"127.0.1.{number}" for number in range(1, 100)]
    policy = {
        "allow": [{"name": "many", "hosts": ["many.example"], "ports": [1]}],
        "upstream": {"allow_addresses": ["127.0.1.0/24"]},
    }
    scene = start_scene(policy, [], {}, names={"many.example": [addresses]})
    assert scene.request("many.example", port=1).reason == "upstream_failed"
    assert connects(scene) == [f"('{address}', 1)" for address in addresses[:32]]
