"""Where no backend may be: a gateway that can be told to speak to such an address gives away what is there.

The metadata services of clouds hand credentials to whoever asks from the machine; other link-local addresses
are the machine's own business; nothing answers a request at a multicast or unspecified address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Ip = IPv4Address | IPv6Address

# Outside the link-local networks. AWS, Google Cloud and Alibaba Cloud document them.
_METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")))
_THIS_NETWORK = ip_network("0.0.0.0/8")  # RFC 1122, 3.2.1.3: Linux takes it as this machine
_BROADCAST = ip_address("255.255.255.255")
# RFC 6052: the last four bytes are an IPv4 address that a translator on the way speaks to.
_NAT64 = ip_network("64:ff9b::/96")


def why_refused(host: str, allowed: Iterable[str] = ()) -> str | None:
    """What kind of address `host` is that no backend may have; None for all others, and for names.

    `allowed`: networks in which every address is good.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    for meant in _meant_by(address):
        if (reason := _why(meant)) is not None:
            is_allowed = any(ip in ip_network(network) for network in allowed for ip in (address, meant))
            return None if is_allowed else reason
    return None


def _why(address: Ip) -> str | None:
    if address.is_link_local:  # 169.254.0.0/16, fe80::/10
        return "a link-local address"
    if address in _METADATA:
        return "the address of a cloud's metadata service"
    if address.is_multicast or address == _BROADCAST:
        return "a multicast address"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "an unspecified address"
    return None


def _meant_by(address: Ip) -> tuple[Ip, ...]:
    """The address, and the IPv4 address inside it that a packet may end at."""
    if not isinstance(address, IPv6Address):
        return (address,)
    bare = IPv6Address(int(address))  # without the scope of fe80::1%eth0, which no network contains
    inside = bare.ipv4_mapped or bare.sixtofour
    if inside is None and bare in _NAT64:
        inside = IPv4Address(int(bare) & 0xFFFFFFFF)
    return (bare,) if inside is None else (bare, inside)
