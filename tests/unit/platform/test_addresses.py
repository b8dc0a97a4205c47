"""An address is public only if what lies behind it is."""

from ipaddress import ip_network

import pytest

from services.platform.addresses import is_public

PUBLIC = ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1", "2001:db8::1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2001:0:7f00:1::"),
    *("::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:0:127.0.0.1"),
    *("192.0.0.192", "192.0.0.9", "5f00::1", "3fff::1", "3fff:fff::1", "2001:2::1", "2001:10::1", "100::1", "4000::1"),
    *("2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:127.0.0.1", "2002:a9fe:a9fe::", "2002:ffff:ffff::"),
]
# Both ends of what is special and not globally reachable: IANA's registries, and multicast (RFC 5771, RFC 4291).
SPECIAL = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
]
SPECIAL_V6 = [
    *("::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/32", "2001:2::/48"),
    *("2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
]
# How an IPv4 address is written in IPv6.
EMBEDDED = [
    "64:ff9b::{v4}",
    "::ffff:{v4}",
    "::ffff:0:{v4}",
    "2002:{hex}::",
    "2002:{hex}::1",
    "::{v4}",
    "2606::5efe:{v4}",
]


@pytest.mark.parametrize("network", SPECIAL)
def test_no_special_network_is_public_also_if_ipv6_leads_there(network: str) -> None:
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        digits = f"{int(address):08x}"
        assert not is_public(str(address))
        for written in EMBEDDED:
            assert not is_public(written.format(v4=address, hex=f"{digits[:4]}:{digits[4:]}")), written


@pytest.mark.parametrize("network", SPECIAL_V6)
def test_no_special_network_of_ipv6_is_public(network: str) -> None:
    for address in (ip_network(network)[0], ip_network(network)[-1]):
        assert not is_public(str(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(address)


def test_a_name_is_not_an_address() -> None:
    with pytest.raises(ValueError, match="example"):
        is_public("example.com")
