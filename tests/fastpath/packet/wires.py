"""Interfaces in namespaces, and what is on them: for the tests of the tap and of sending."""

from __future__ import annotations

import ctypes
import fcntl
import select
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from piagent.adapters import bpf, netns
from piagent.adapters.rtnetlink import Rtnetlink
from tests.waiting import PATIENCE_S, wait_until

EVERYTHING: list[bpf.Instruction] = [(0x06, 0, 0, 1 << 20)]
"""A filter that lets through all."""
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6 = 0, 1, 4

_SIOCETHTOOL = 0x8946
_SET_TX_CHECKSUM, _SET_TSO, _SET_GSO, _SET_GRO = 0x17, 0x1F, 0x24, 0x2C


class Taken(NamedTuple):
    """A frame that the tap gave out."""

    frame: bytes
    offload: tuple[int, int, int, int, int, int]
    """flags, gso_type, hdr_len, gso_size, csum_start, csum_offset"""
    vlan: tuple[int, int]


def index_of(host: netns.Host, name: str = netns.INTERFACE) -> int:
    with host.entered(), Rtnetlink() as rtnetlink:
        return rtnetlink.link(name).index


def drained(tap: Any, *, spoil: bool = False) -> list[Taken]:
    """All that is there, each round of frames given back."""
    found: list[Taken] = []
    while True:
        one = tap.next(spoil=spoil)
        if isinstance(one, tuple):
            found.append(Taken(*one))
            continue
        tap.release()
        if one < 0 and isinstance(again := tap.next(spoil=spoil), tuple):
            found.append(Taken(*again))
            continue
        return found


def drained_until(
    tap: Any, enough: Callable[[list[Taken]], object], *, spoil: bool = False
) -> list[Taken]:
    """What comes until that is enough."""
    found: list[Taken] = []

    def more() -> object:
        found.extend(drained(tap, spoil=spoil))
        return enough(found)

    wait_until(more, lambda: f"{len(found)} frames so far")
    return found


class Sniffer:
    """An ordinary packet socket beside the tap: what it reads is what is on the wire."""

    def __init__(self, host: netns.Host, name: str = netns.INTERFACE) -> None:
        with host.entered():
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            self.wire.bind((name, 3))

    def frames(self) -> list[bytes]:
        """All frames that have come in since the last call."""
        found = []
        while select.select([self.wire], [], [], 0)[0]:
            frame, where = self.wire.recvfrom(1 << 17)
            if where[2] != socket.PACKET_OUTGOING:
                found.append(frame)
        return found

    def close(self) -> None:
        self.wire.close()


def without_offloads(host: netns.Host, name: str = netns.INTERFACE) -> None:
    """Have the kernel, before it gives a frame to the interface, do all that is left to be done."""
    for command in (_SET_TSO, _SET_GSO, _SET_TX_CHECKSUM):
        _set(host, name, command, 0)


def with_gro(host: netns.Host, name: str = netns.INTERFACE) -> None:
    """Have the kernel put packets of a TCP stream together that come in."""
    _set(host, name, _SET_GRO, 1)


def _set(host: netns.Host, name: str, command: int, value: int) -> None:
    what = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    request = struct.pack("16sP", name.encode(), ctypes.addressof(what))
    with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, _SIOCETHTOOL, request.ljust(40, b"\0"))


def passed(sender: socket.socket, receiver: socket.socket, data: bytes) -> bytes:
    """What arrives of that at the stream's other end; TimeoutError."""
    receiver.settimeout(PATIENCE_S)
    sender.settimeout(PATIENCE_S)
    writer = threading.Thread(target=sender.sendall, args=(data,))
    writer.start()
    found = bytearray()
    while len(found) < len(data) and (piece := receiver.recv(1 << 20)):
        found += piece
    writer.join()
    return bytes(found)
