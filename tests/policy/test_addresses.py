"""The address guard, form by form."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.policy.addresses import is_guarded, is_within, parse_network


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
    "address",
    [
        "1.1.1.1",
        "140.82.112.3",
        "172.32.0.1",
        "2606:4700::1111",
        "64:ff9b::8c52:7003",
        "2606:4700::5efe:8c52:7003",
        "2606:4700:0:5efe::a00:1",
    ],
)
def test_a_public_address_is_not_guarded(address: str) -> None:
    assert not is_guarded(address)


# IANA's registries of special-purpose addresses (RFC 6890), and what is not global unicast.
SPECIAL = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "168.63.129.16/32",
    "::/128",
    "::1/128",
    "::/96",
    "::ffff:0:0:0/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "3ffe::/16",
    "3fff::/20",
    "5f00::/16",
    "4000::/3",
    "8000::/3",
    "c000::/3",
    "fc00::/7",
    "fd00:ec2::254/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
INTERNAL_V4 = [
    "127.0.0.1",
    "10.1.2.3",
    "169.254.169.254",
    "100.100.100.200",
    "0.0.0.0",
    "224.0.0.1",
]
CARRYING_V4 = [
    "2606:4700::5efe:{}",
    "2606:4700::200:5efe:{}",
    "::ffff:{}",
    "::{}",
    "64:ff9b::{}",
    "::ffff:0:{}",
    "64:ff9b:1::{}",
    "2002:{hex}::1",
]


@pytest.mark.parametrize("block", SPECIAL)
def test_every_special_block_is_guarded_from_its_first_address_to_its_last(block: str) -> None:
    network = ip_network(block)
    for address in (network[0], network[-1], network[network.num_addresses // 2]):
        assert is_guarded(str(address))


@pytest.mark.parametrize("inner", INTERNAL_V4)
@pytest.mark.parametrize("form", CARRYING_V4)
def test_an_internal_address_is_guarded_inside_another(form: str, inner: str) -> None:
    number = int(ip_address(inner))
    spelled = form.format(inner, hex=f"{number >> 16:x}:{number & 0xFFFF:x}")
    assert is_guarded(spelled)
    assert is_guarded(f"{spelled}%eth0")


@given(st.ip_addresses())
def test_what_python_knows_as_not_global_is_guarded(
    address: IPv4Address | IPv6Address,
) -> None:
    """Its list changes from version to version and has gaps; ours is never the shorter one."""
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if not (inner or address).is_global or (inner or address).is_multicast:
        assert is_guarded(str(address))


def test_a_declared_network_covers_the_mapped_form_of_its_addresses() -> None:
    declared = [ip_network("10.20.0.0/16")]
    assert is_within("10.20.3.4", declared)
    assert is_within("::ffff:10.20.3.4", declared)
    assert is_within("64:ff9b::a14:304", declared)
    assert not is_within("10.21.0.1", declared)
    assert not is_within("nonsense", declared)


def test_a_declared_network_covers_what_leads_to_its_addresses() -> None:
    declared = [ip_network("2001:db8:1::/48"), ip_network("10.20.0.0/16"), ip_network("::/127")]
    for address in ("10.20.255.1", "::10.20.255.1", "2002:a14:ff01::1", "64:ff9b::a14:ff01"):
        assert is_within(address, declared)
        assert is_within(address, iter(declared))
        assert not is_within(address.replace("20", "21").replace("a14", "a15"), declared)
    assert is_within("2001:db8:1::7%eth0", declared)
    assert is_within("2001:db8:1::5efe:127.0.0.1", declared)
    assert not is_within("2606:4700::5efe:10.20.0.1", declared)
    assert is_within("::1", declared)
    assert is_within("::", declared)
    assert not is_within("::2", declared)
    assert not is_within("0.0.0.1", declared)


@pytest.mark.parametrize("text", ["10.20.0.1/16", "10.20.0.0/33", "::1/64", "10.20", "", "any"])
def test_a_block_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_network(text)


@pytest.mark.parametrize("text", ["10.20.0.0/16", "10.20.0.1/32", "fd00::/8"])
def test_a_block_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_network(text)) == text


def test_declaring_ipv6_networks_does_not_cover_an_ipv4_address_inside() -> None:
    for address, network in [
        ("64:ff9b::7f00:1", "64:ff9b::/96"),
        ("2002:7f00:1::", "2002::/16"),
        ("::127.0.0.1", "::/96"),
        ("::ffff:127.0.0.1", "::ffff:0:0/96"),
    ]:
        assert not is_within(address, [ip_network(network)])
