"""Which IP addresses are public; callers must not reach other networks through this host."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# IPv6 addresses behind which a router or the host's own stack finds an IPv4 address, and where it lies in them:
# NAT64 (RFC 6052), 6to4 (RFC 3056), IPv4-mapped (RFC 4291, 2.5.5.2), IPv4-translated (RFC 2765).
_EMBEDDING = {
    IPv6Network("64:ff9b::/96"): 0,
    IPv6Network("2002::/16"): 80,
    IPv6Network("::ffff:0:0/96"): 0,
    IPv6Network("::ffff:0:0:0/96"): 0,
}
# What names IPv4 addresses of one network only (RFC 8215), or has been given up (RFC 4291, 2.5.5.1).
_NEVER_PUBLIC = (IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


def is_public(text: str) -> bool:
    """Whether the address, with or without a zone, is one of the public internet. Raises ValueError."""
    return _is_public(ip_address(text.partition("%")[0]))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        for network, shift in _EMBEDDING.items():
            if address in network:
                return _is_public(IPv4Address(int(address) >> shift & 0xFFFF_FFFF))
        if address.is_site_local or any(address in network for network in _NEVER_PUBLIC):
            return False
    return address.is_global and not address.is_multicast
