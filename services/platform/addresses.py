"""Which IP addresses are public; callers must not reach other networks through this host.

By lists of our own, since Python's `is_global` differs from one patch release to the next.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# https://www.iana.org/assignments/iana-ipv4-special-registry, without the services AS112 and AMT; and multicast.
_NOT_PUBLIC_V4 = [
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
# https://www.iana.org/assignments/ipv6-address-space: what is given out, and of that, the special registry
# https://www.iana.org/assignments/iana-ipv6-special-registry: IETF protocols (Teredo is among them), documentation.
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]

# IPv6 addresses behind which a router or the host's own stack finds an IPv4 address, and where it lies in them:
# NAT64 (RFC 6052), 6to4 (RFC 3056), IPv4-mapped (RFC 4291, 2.5.5.2), IPv4-translated (RFC 2765).
_EMBEDDING = {
    IPv6Network("64:ff9b::/96"): 0,
    IPv6Network("2002::/16"): 80,
    IPv6Network("::ffff:0:0/96"): 0,
    IPv6Network("::ffff:0:0:0/96"): 0,
}
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # of an interface (RFC 5214, 6.1), followed by an IPv4 address


def is_public(text: str) -> bool:
    """Whether the address, with or without a zone, is one of the public internet. Raises ValueError."""
    address = ip_address(text.partition("%")[0])
    return _is_public_v4(address) if isinstance(address, IPv4Address) else _is_public_v6(address)


def _is_public_v4(address: IPv4Address) -> bool:
    return not any(address in network for network in _NOT_PUBLIC_V4)


def _is_public_v6(address: IPv6Address) -> bool:
    number = int(address)
    for network, shift in _EMBEDDING.items():
        if address in network:
            return _is_public_v4(IPv4Address(number >> shift & 0xFFFF_FFFF))
    if number >> 32 & 0xFFFF_FFFF in _ISATAP and not _is_public_v4(IPv4Address(number & 0xFFFF_FFFF)):
        return False
    return address in _UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
