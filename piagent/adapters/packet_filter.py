"""A socket filter that lets through what the forwarder takes, and nothing else.

Classic BPF as in bpf.py. Let through is, of what comes to a forwarded address: TCP and UDP to its
forwarded ports, the later fragments of such (they have no ports), ICMP errors that quote a packet
from those ports, and for IPv6 what has extension headers, which no loop here can walk through. Of
what comes to an address that outer headers are from: ICMP errors that quote such a one. It
has to be meant for this host (not flooded by a switch or heard in promiscuous mode), and in no
VLAN: what is, is another network's.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from piagent.adapters.bpf import (
    AND,
    DROP,
    INSTRUCTIONS_MAX,
    JUMP,
    JUMP_IF_EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    RETURN,
    VLAN_ID,
    VLAN_TAG,
    Instruction,
    unless,
)
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.frames import ETH_P_IP, ETH_P_IPV6, ICMPV6

Program = list[Instruction]

# Longer than any frame: what is let through is not cut.
_ACCEPT: Instruction = (RETURN, 0, 0, 1 << 20)
_JUMP_IF_ABOVE, _JUMP_IF_AT_LEAST, _JUMP_IF_SET = 0x25, 0x35, 0x45
_LOAD_BYTE_BEHIND, _LOAD_HALF_BEHIND = 0x50, 0x48  # index register + offset
_LOAD_HEADER_SIZE = 0xB1  # 4 * (byte & 15) into the index register
_ADD_INDEX, _TO_INDEX, _SHIFT_LEFT = 0x0C, 0x07, 0x64
_SKIP_MAX = 255
_PACKET_TYPE = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_FOR_US = 0  # PACKET_HOST
_ICMP = 1
_LATER_FRAGMENT = 0x1FFF  # any bit of a fragment's offset (RFC 791 section 3.1)
_ERRORS4 = (3, 11, 12)  # RFC 792
_ERROR6_MAX = 4  # types 1 to 4 (RFC 4443 section 2.1, without those that are reserved)
_EXTENSIONS = (0, 43, 44, 51, 60)  # hop by hop, routing, fragment, AH, destination (RFC 8200)
_FRAGMENT = 44
_IN_IP = (4, 41)  # RFC 2003; RFC 2473

# Where things are in a frame without a tag; behind an IPv4 header: from its size on.
_IP4_OFFSET, _IP4_PROTOCOL, _IP4_DESTINATION, _IP4_END = 20, 23, 30, 14
_IP6_NEXT, _IP6_DESTINATION, _IP6_END = 20, 38, 54
_PORT = 2
_QUOTED = 8
"""Behind an ICMP header."""


class _Ports(Struct, frozen=True):
    """Of one address, by protocol; None: any."""

    tcp: list[tuple[int, int]] | None
    udp: list[tuple[int, int]] | None
    wraps: bool = False
    """Whether outer headers are from there."""


_ANY = _Ports(None, None, wraps=True)


def program(forwarded: Collection[Forwarded], wrapping: Collection[str] = ()) -> Program:
    """The program for these, and for outer headers from those addresses of ours.

    So much that the program would be too long is not told apart by its ports, or not even by its
    addresses: then more is let through, and the forwarder has to look closer.
    """
    ports = {ip_address(address): _Ports([], [], wraps=True) for address in wrapping}
    for one in forwarded:
        its = ports.setdefault(one.ip, _Ports([], []))
        list_ = its.tcp if one.protocol == TCP else its.udp
        if list_ is not None and (one.first, one.last) not in list_:
            list_.append((one.first, one.last))
    found = _whole(*_by_address(ports))
    if len(found) > INSTRUCTIONS_MAX:
        found = _whole(*_by_address({ip: _any_of(its) for ip, its in ports.items()}))
    if len(found) > INSTRUCTIONS_MAX:
        versions = {ip.version for ip in ports}
        found = _whole(
            _address4(_ANY) if 4 in versions else [], _address6(_ANY) if 6 in versions else []
        )
    return found


def _any_of(its: _Ports) -> _Ports:
    return _Ports(None if its.tcp else [], None if its.udp else [], its.wraps)


def _whole(ipv4: Program, ipv6: Program) -> Program:
    return [
        (LOAD_WORD, 0, 0, _PACKET_TYPE),
        *unless(_FOR_US),
        (LOAD_WORD, 0, 0, VLAN_TAG),
        (AND, 0, 0, VLAN_ID),
        *unless(0),
        (LOAD_HALF, 0, 0, 12),
        *_when(ETH_P_IP, [(_LOAD_HEADER_SIZE, 0, 0, _IP4_END), *ipv4, DROP]),
        *_when(ETH_P_IPV6, [*ipv6, DROP]),
        DROP,
    ]


def _by_address(ports: dict[IPv4Address | IPv6Address, _Ports]) -> tuple[Program, Program]:
    ipv4: Program = [(LOAD_WORD, 0, 0, _IP4_DESTINATION)]
    ipv6: Program = []
    for ip, its in ports.items():
        if isinstance(ip, IPv4Address):
            ipv4 += _when(int(ip), _address4(its))
        else:
            its6 = _address6(its)
            for index, word in reversed(list(enumerate(struct.unpack("!IIII", ip.packed)))):
                offset = _IP6_DESTINATION + 4 * index
                its6 = [(LOAD_WORD, 0, 0, offset), *_when(word, its6)]
            ipv6 += its6
    return ipv4, ipv6


def _when(value: int, then: Program) -> Program:
    """`then`, which ends in a verdict, if what was loaded is this; else on behind it."""
    if len(then) <= _SKIP_MAX:
        return [(JUMP_IF_EQUAL, 0, len(then), value), *then]
    return [(JUMP_IF_EQUAL, 1, 0, value), (JUMP, 0, 0, len(then)), *then]


def _each(its: _Ports, then: dict[int, Program]) -> Program:
    """What becomes of each protocol that has forwarded ports."""
    protocols = [p for p, ports in ((TCP, its.tcp), (UDP, its.udp)) if ports is None or ports]
    return [one for p in protocols for one in _when(p, then[p])]


def _among(ports: list[tuple[int, int]] | None) -> Program:
    """The verdict on the port that was loaded."""
    if ports is None:
        return [_ACCEPT]
    found: Program = []
    for first, last in sorted(ports):
        if first == last:
            found += [(JUMP_IF_EQUAL, 0, 1, first), _ACCEPT]
        else:
            found += [(_JUMP_IF_AT_LEAST, 0, 2, first), (_JUMP_IF_ABOVE, 1, 0, last), _ACCEPT]
    return [*found, DROP]


def _address4(its: _Ports) -> Program:
    """What comes to an IPv4 address; the index register has the size of its header."""
    later: Program = [
        (LOAD_HALF, 0, 0, _IP4_OFFSET),
        (_JUMP_IF_SET, 0, 1, _LATER_FRAGMENT),
        _ACCEPT,
    ]
    port: Instruction = (_LOAD_HALF_BEHIND, 0, 0, _IP4_END + _PORT)
    return [
        (LOAD_BYTE, 0, 0, _IP4_PROTOCOL),
        *_each(its, {TCP: [*later, port, *_among(its.tcp)], UDP: [*later, port, *_among(its.udp)]}),
        *_when(_ICMP, _error4(its)),
        DROP,
    ]


def _error4(its: _Ports) -> Program:
    quoted = _IP4_END + _QUOTED
    from_port: Program = [
        (_LOAD_BYTE_BEHIND, 0, 0, quoted),  # version and size of the quoted header
        (AND, 0, 0, 15),
        (_SHIFT_LEFT, 0, 0, 2),
        (_ADD_INDEX, 0, 0, 0),
        (_TO_INDEX, 0, 0, 0),
        (_LOAD_HALF_BEHIND, 0, 0, quoted),
    ]
    return [
        (LOAD_HALF, 0, 0, _IP4_OFFSET),
        (_JUMP_IF_SET, 0, 1, _LATER_FRAGMENT),
        DROP,
        (_LOAD_BYTE_BEHIND, 0, 0, _IP4_END),
        (JUMP_IF_EQUAL, 3, 0, _ERRORS4[0]),
        (JUMP_IF_EQUAL, 2, 0, _ERRORS4[1]),
        (JUMP_IF_EQUAL, 1, 0, _ERRORS4[2]),
        DROP,
        (_LOAD_BYTE_BEHIND, 0, 0, quoted + _IP4_PROTOCOL - _IP4_END),
        *_each(its, {TCP: [*from_port, *_among(its.tcp)], UDP: [*from_port, *_among(its.udp)]}),
        *_wrapped(its),
        DROP,
    ]


def _wrapped(its: _Ports) -> Program:
    """Of a packet in an outer header, if that was ours; its protocol was loaded."""
    return [one for kind in _IN_IP for one in _when(kind, [_ACCEPT])] if its.wraps else []


def _address6(its: _Ports) -> Program:
    """What comes to an IPv6 address."""
    port: Instruction = (LOAD_HALF, 0, 0, _IP6_END + _PORT)
    return [
        (LOAD_BYTE, 0, 0, _IP6_NEXT),
        *_each(its, {TCP: [port, *_among(its.tcp)], UDP: [port, *_among(its.udp)]}),
        *_when(ICMPV6, _error6(its)),
        *[one for kind in _EXTENSIONS for one in ((JUMP_IF_EQUAL, 0, 1, kind), _ACCEPT)],
        DROP,
    ]


def _error6(its: _Ports) -> Program:
    quoted = _IP6_END + _QUOTED
    from_port: Instruction = (LOAD_HALF, 0, 0, quoted + 40)
    return [
        (LOAD_BYTE, 0, 0, _IP6_END),
        (_JUMP_IF_ABOVE, 0, 1, _ERROR6_MAX),
        DROP,
        (JUMP_IF_EQUAL, 0, 1, 0),
        DROP,
        (LOAD_BYTE, 0, 0, quoted + 6),
        *_each(its, {TCP: [from_port, *_among(its.tcp)], UDP: [from_port, *_among(its.udp)]}),
        *_wrapped(its),
        *_when(_FRAGMENT, [_ACCEPT]),
        DROP,
    ]
