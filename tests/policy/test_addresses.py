"""The address guard, form by form."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from understudy.policy.addresses import is_guarded, is_within


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "not an address",
        "2130706433",
        "0x7f.1",
        "",
    ],
)
def test_an_internal_address_is_guarded_in_every_form(address: str) -> None:
    assert is_guarded(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.112.3", "172.32.0.1", "2606:4700::1111", "64:ff9b::8c52:7003"]
)
def test_a_public_address_is_not_guarded(address: str) -> None:
    assert not is_guarded(address)


def test_a_declared_network_covers_the_mapped_form_of_its_addresses() -> None:
    declared = [ip_network("10.20.0.0/16")]
    assert is_within("10.20.3.4", declared)
    assert is_within("::ffff:10.20.3.4", declared)
    assert is_within("64:ff9b::a14:304", declared)
    assert not is_within("10.21.0.1", declared)
    assert not is_within("nonsense", declared)


def test_declaring_ipv6_networks_does_not_cover_an_ipv4_address_inside() -> None:
    assert not is_within("64:ff9b::7f00:1", [ip_network("64:ff9b::/96")])
