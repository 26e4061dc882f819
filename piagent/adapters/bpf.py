"""A socket filter by which the kernel wakes us for claims to certain addresses only.

Classic BPF (Documentation/networking/filter.rst): loads are from the frame's first byte, in network
byte order; a load beyond its end drops the frame.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, ip_address

from piagent.adapters.frames import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
)

INSTRUCTIONS_MAX = 2000
"""16 KiB: within the 20 KiB (net.core.optmem_max) that older kernels give a socket for all this."""

_SO_ATTACH_FILTER = 26
_INSTRUCTION = struct.Struct("=HBBI")
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
AND, JUMP, JUMP_IF_EQUAL, RETURN = 0x54, 0x05, 0x15, 0x06
VLAN_TAG = 0xFFFFF000 + 44  # SKF_AD_OFF + SKF_AD_VLAN_TAG: not in the frame, but beside it
VLAN_ID = 0xFFF
_ALL = 0xFFFF

Instruction = tuple[int, int, int, int]
"""Code, how many to skip if true, if false, and the operand."""

DROP: Instruction = (RETURN, 0, 0, 0)
ACCEPT: Instruction = (RETURN, 0, 0, _ALL)


def claims(addresses: Collection[str]) -> list[Instruction]:
    """The program that lets through ARP from, and neighbour advertisements for, these addresses.

    So many addresses that the program would be too long are not told apart: then it lets through
    all claims. Frames of other VLANs, which this interface sees too, are another network's.
    """
    parsed = [ip_address(address) for address in addresses]
    arp = [one for ip in parsed if isinstance(ip, IPv4Address) for one in _is_sender(ip)]
    advertised = [one for ip in parsed if isinstance(ip, IPv6Address) for one in _is_target(ip)]
    if len(arp) + len(advertised) > INSTRUCTIONS_MAX:
        # The sender of a probe, 0.0.0.0, claims nothing.
        arp, advertised = [(JUMP_IF_EQUAL, 1, 0, 0), ACCEPT], [ACCEPT]
    arp_part = [(LOAD_HALF, 0, 0, 16), *unless(ETH_P_IP), (LOAD_WORD, 0, 0, 28), *arp, DROP]
    return [
        (LOAD_WORD, 0, 0, VLAN_TAG),
        (AND, 0, 0, VLAN_ID),
        *unless(0),
        (LOAD_HALF, 0, 0, 12),
        (JUMP_IF_EQUAL, 1, 0, ETH_P_ARP),
        (JUMP, 0, 0, len(arp_part)),
        *arp_part,
        *unless(ETH_P_IPV6),
        (LOAD_BYTE, 0, 0, 20),
        *unless(ICMPV6),
        (LOAD_BYTE, 0, 0, 54),
        *unless(NEIGHBOUR_ADVERTISEMENT),
        *advertised,
        DROP,
    ]


def attach(channel: socket.socket, program: list[Instruction]) -> None:
    """Replace the socket's filter, in one step; OSError."""
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the native alignment puts the pointer where C does.
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    channel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def unless(value: int) -> list[Instruction]:
    """Drop unless what was loaded is this."""
    return [(JUMP_IF_EQUAL, 1, 0, value), DROP]


def _is_sender(address: IPv4Address) -> list[Instruction]:
    return [(JUMP_IF_EQUAL, 0, 1, int(address)), ACCEPT]


def _is_target(address: IPv6Address) -> list[Instruction]:
    """Four words; at the first that differs on to what follows."""
    found: list[Instruction] = []
    for index, word in enumerate(struct.unpack("!IIII", address.packed)):
        found += [
            (LOAD_WORD, 0, 0, 62 + 4 * index),
            (JUMP_IF_EQUAL, 0, 7 - 2 * index, word),
        ]
    return [*found, ACCEPT]
