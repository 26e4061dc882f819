"""The Ethernet frames by which hosts claim, ask for and prove addresses: ARP and IPv6's NDP.

RFC 826 (ARP), RFC 5227 (probes, conflicts), RFC 4861 and 4862 (neighbour discovery, duplicate
addresses). All multi-byte fields are in network byte order.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

BROADCAST = b"\xff" * 6
MAC_SIZE = 6
ETH_P_ARP, ETH_P_IP, ETH_P_IPV6 = 0x0806, 0x0800, 0x86DD
ICMPV6, NEIGHBOUR_ADVERTISEMENT = 58, 136

_ETH_ALL_NODES = b"\x33\x33\x00\x00\x00\x01"
_ARP_ETHERNET = 1
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ARP_HEAD = struct.Struct("!HHBBH")
_UNSPECIFIED4, _UNSPECIFIED6 = IPv4Address(0), IPv6Address(0)
_ALL_NODES = IPv6Address("ff02::1")
_SOLICITED_NODE = int(IPv6Address("ff02::1:ff00:0"))
_NEIGHBOUR_SOLICITATION = 135
_NA_SOLICITED, _NA_OVERRIDE = 0x40000000, 0x20000000
_SOURCE_LINK_LAYER_ADDRESS, _TARGET_LINK_LAYER_ADDRESS = 1, 2
_ARP_END = 42
_HOP_LIMIT = 255
_NA_TARGET, _NA_OPTIONS = 62, 78


class Claim(Struct, frozen=True):
    """Somebody says that an address is his."""

    address: str
    mac: bytes
    """Where he says it is."""
    to: bytes
    """The Ethernet address that was told."""
    reply: bool
    """It answers a question (ARP reply, solicited advertisement); else it came by itself."""


def arp_frame(mac: bytes, address: IPv4Address, *, reply: bool, to: bytes = BROADCAST) -> bytes:
    """An Ethernet frame with a gratuitous ARP request or reply.

    Sender and target address are both the announced one (RFC 5227 section 3, RFC 826 for the
    fields). The target's hardware address is zero in the request and ours in the reply; some
    hosts learn from the one form only, some from the other, so both are sent.
    """
    operation = _ARP_REPLY if reply else _ARP_REQUEST
    target = mac if reply else bytes(MAC_SIZE)
    return _arp(to + mac, operation, mac + address.packed, target + address.packed)


def arp_question_frame(
    mac: bytes, address: IPv4Address, source: IPv4Address | None = None, to: bytes = BROADCAST
) -> bytes:
    """An Ethernet frame that asks who has the address.

    Without a source it is the ARP probe of RFC 5227 section 2.1.1, from which nobody learns
    anything; with `to` it asks one host whether it still has the address (RFC 1122, 2.3.2.1).
    """
    sender = mac + (source or _UNSPECIFIED4).packed
    return _arp(to + mac, _ARP_REQUEST, sender, bytes(MAC_SIZE) + address.packed)


def neighbour_advertisement_frame(
    mac: bytes, address: IPv6Address, to: tuple[bytes, IPv6Address] | None = None
) -> bytes:
    """An Ethernet frame with an unsolicited neighbour advertisement, to all nodes or to one.

    RFC 4861 section 7.2.6: override flag set, solicited flag clear, hop limit 255 (section 7.1.2
    has receivers discard any other), target link-layer address option (section 4.6.1).
    `to` is the hardware address and the address of the one.
    """
    hardware, destination = to or (_ETH_ALL_NODES, _ALL_NODES)
    option = struct.pack("!BB", _TARGET_LINK_LAYER_ADDRESS, 1) + mac
    body = struct.pack("!I", _NA_OVERRIDE) + address.packed + option
    return _icmpv6(hardware + mac, address, destination, NEIGHBOUR_ADVERTISEMENT, body)


def neighbour_solicitation_frame(
    mac: bytes, address: IPv6Address, source: IPv6Address | None = None, to: bytes = b""
) -> bytes:
    """An Ethernet frame that asks who has the address.

    Without a source it is the probe of duplicate address detection (RFC 4862 section 5.4.2: from
    the unspecified address to the solicited-node address, no option); with a source and `to` it
    asks one host whether it still has the address (RFC 4861 section 7.3).
    """
    body = bytes(4) + address.packed
    if source is None:
        group = IPv6Address(_SOLICITED_NODE | int(address) & 0xFFFFFF)
        addressing = b"\x33\x33" + group.packed[-4:] + mac
        return _icmpv6(addressing, _UNSPECIFIED6, group, _NEIGHBOUR_SOLICITATION, body)
    body += struct.pack("!BB", _SOURCE_LINK_LAYER_ADDRESS, 1) + mac
    return _icmpv6(to + mac, source, address, _NEIGHBOUR_SOLICITATION, body)


def internet_checksum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071, over data of any length."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frames(mac: bytes, address: str) -> tuple[bytes, ...]:
    """What announces the address: two ARP frames, or one neighbour advertisement."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        return (neighbour_advertisement_frame(mac, ip),)
    return (arp_frame(mac, ip, reply=False), arp_frame(mac, ip, reply=True))


def probe_frame(mac: bytes, address: str) -> bytes:
    """What asks everybody for the address, in the name of nobody."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        return neighbour_solicitation_frame(mac, ip)
    return arp_question_frame(mac, ip)


def claim(frame: bytes) -> Claim | None:
    """What a frame claims; None for all that claims nothing, probes and broken frames included."""
    kind = frame[12:14]
    if kind == b"\x08\x06":
        return _arp_claim(frame)
    return _advertised(frame) if kind == b"\x86\xdd" else None


def mac_text(mac: bytes) -> str:
    """A hardware address as it is written, `02:00:00:00:00:01`."""
    return mac.hex(":")


def _arp(addressing: bytes, operation: int, sender: bytes, target: bytes) -> bytes:
    """`addressing`: the two hardware addresses; sender and target: hardware address and IPv4's."""
    head = _ARP_HEAD.pack(_ARP_ETHERNET, ETH_P_IP, MAC_SIZE, 4, operation)
    return addressing + struct.pack("!H", ETH_P_ARP) + head + sender + target


def _icmpv6(
    addressing: bytes, source: IPv6Address, destination: IPv6Address, kind: int, body: bytes
) -> bytes:
    """`addressing`: the two hardware addresses."""
    unsummed = struct.pack("!BBH", kind, 0, 0) + body
    # The pseudo header of RFC 8200 section 8.1 comes first in the sum.
    pseudo = source.packed + destination.packed + struct.pack("!II", len(unsummed), ICMPV6)
    checksum = internet_checksum(pseudo + unsummed)
    packet = struct.pack("!BBH", kind, 0, checksum) + body
    header = struct.pack("!HIHBB", ETH_P_IPV6, 6 << 28, len(packet), ICMPV6, _HOP_LIMIT)
    return addressing + header + source.packed + destination.packed + packet


def _arp_claim(frame: bytes) -> Claim | None:
    """RFC 5227 section 2.4: request or reply, whoever is named as the sender claims to be it."""
    if len(frame) < _ARP_END:
        return None
    *head, operation = _ARP_HEAD.unpack_from(frame, 14)
    sender = frame[28:32]
    if head != [_ARP_ETHERNET, ETH_P_IP, MAC_SIZE, 4] or sender == _UNSPECIFIED4.packed:
        return None
    if operation not in {_ARP_REQUEST, _ARP_REPLY}:
        return None
    reply = operation == _ARP_REPLY
    return Claim(str(IPv4Address(sender)), frame[22:28], frame[:6], reply)


def _advertised(frame: bytes) -> Claim | None:
    """RFC 4861 section 7.2.5; a hop limit below 255 has come from another network (7.1.2)."""
    if len(frame) < _NA_OPTIONS:
        return None
    next_header, hop_limit = frame[20], frame[21]
    if (next_header, hop_limit) != (ICMPV6, _HOP_LIMIT) or frame[54] != NEIGHBOUR_ADVERTISEMENT:
        return None
    (flags,) = struct.unpack_from("!I", frame, 58)
    option = frame[_NA_OPTIONS : _NA_OPTIONS + 8]
    says_where = len(option) == 8 and option[:2] == bytes([_TARGET_LINK_LAYER_ADDRESS, 1])
    return Claim(
        address=str(IPv6Address(frame[_NA_TARGET:_NA_OPTIONS])),
        mac=option[2:] if says_where else frame[6:12],
        to=frame[:6],
        reply=bool(flags & _NA_SOLICITED),
    )
