"""A neighbour on the LAN that asks with raw frames: its own neighbour table plays no part."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self

from piagent.adapters.frames import internet_checksum
from piagent.adapters.netns import INTERFACE, Host
from piagent.adapters.rtnetlink import Rtnetlink

PATIENCE_S = 0.25
"""After this nobody answers any more: answers take microseconds, on a busy machine milliseconds."""

_ETH_P_ALL, _ETH_P_ARP, _ETH_P_IP, _ETH_P_IPV6 = 3, 0x0806, 0x0800, 0x86DD


def mac_of(host: Host) -> bytes:
    with host.entered(), Rtnetlink() as rtnetlink:
        return rtnetlink.link(INTERFACE).mac


class Tap:
    """A packet socket on a host's interface: sees and sends whole frames."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self.wire.bind((INTERFACE, _ETH_P_ALL))
        self.mac = mac_of(host)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()

    def heard(self, wanted: Callable[[bytes], object], patience_s: float = PATIENCE_S) -> bool:
        """Whether such a frame comes in (not: goes out) within the time."""
        end = time.monotonic() + patience_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self.wire], [], [], left)[0]:
                frame, where = self.wire.recvfrom(65536)
                if where[2] != socket.PACKET_OUTGOING and wanted(frame):
                    return True
        return False

    def forget(self) -> None:
        """Drop what is queued."""
        while select.select([self.wire], [], [], 0)[0]:
            self.wire.recv(65536)


class Asker(Tap):
    """Asks who has an address, and sends pings, as `ipv4` and `ipv6`."""

    def __init__(self, host: Host, ipv4: str, ipv6: str) -> None:
        super().__init__(host)
        self._ipv4, self._ipv6 = IPv4Address(ipv4), IPv6Address(ipv6)

    def gets_mac(self, vip: str, patience_s: float = PATIENCE_S) -> bool:
        """Whether somebody answers ARP or NDP for it."""
        ip = ip_address(vip)
        self.forget()
        if isinstance(ip, IPv4Address):
            self.wire.send(arp_request(self.mac, IPv4Address(0), ip))
            reply = b"\x00\x01\x08\x00\x06\x04\x00\x02"
            return self.heard(
                lambda frame: frame[14:22] == reply and frame[28:32] == ip.packed, patience_s
            )
        self.wire.send(solicitation(self.mac, self._ipv6, ip))
        return self.heard(
            lambda frame: (
                frame[20:21] == b"\x3a" and frame[54:55] == b"\x88" and frame[62:78] == ip.packed
            ),
            patience_s,
        )

    def gets_pong(self, vip: str, mac: bytes, patience_s: float = PATIENCE_S) -> bool:
        """Whether a ping sent straight to that hardware address is answered."""
        ip = ip_address(vip)
        self.forget()
        if isinstance(ip, IPv4Address):
            self.wire.send(ping(mac, self.mac, self._ipv4, ip))
            return self.heard(
                lambda frame: (
                    frame[12:14] == b"\x08\x00"
                    and frame[26:30] == ip.packed
                    and frame[34:35] == b"\x00"
                ),
                patience_s,
            )
        self.wire.send(ping6(mac, self.mac, self._ipv6, ip))
        return self.heard(
            lambda frame: (
                frame[12:14] == b"\x86\xdd"
                and frame[22:38] == ip.packed
                and frame[54:55] == b"\x81"
            ),
            patience_s,
        )


def arp_request(mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    """Broadcast (RFC 826); from 0.0.0.0 it teaches nobody anything (RFC 5227 section 1.1)."""
    ether = b"\xff" * 6 + mac + struct.pack("!H", _ETH_P_ARP)
    fixed = struct.pack("!HHBBH", 1, _ETH_P_IP, 6, 4, 1)
    return ether + fixed + mac + sender.packed + bytes(6) + target.packed


def solicitation(mac: bytes, sender: IPv6Address, target: IPv6Address) -> bytes:
    """Multicast to the solicited-node address (RFC 4861 section 4.3)."""
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + target.packed[-3:])
    body = struct.pack("!I", 0) + target.packed + b"\x01\x01" + mac
    return _icmpv6(b"\x33\x33" + group.packed[-4:], mac, (sender, group), 135, body)


def ping(to: bytes, mac: bytes, sender: IPv4Address, target: IPv4Address) -> bytes:
    echo = struct.pack("!HH", 7, 1) + b"piagent!"
    icmp = struct.pack("!BBH", 8, 0, internet_checksum(b"\x08\x00" + echo)) + echo
    return ipv4_frame(to, mac, (sender, target), 1, icmp)


def ipv4_frame(
    to: bytes, mac: bytes, ends: tuple[IPv4Address, IPv4Address], protocol: int, body: bytes
) -> bytes:
    def header(checksum: int) -> bytes:
        fixed = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, checksum)
        return fixed + ends[0].packed + ends[1].packed

    whole = header(internet_checksum(header(0)))
    return to + mac + struct.pack("!H", _ETH_P_IP) + whole + body


def ping6(to: bytes, mac: bytes, sender: IPv6Address, target: IPv6Address) -> bytes:
    return _icmpv6(to, mac, (sender, target), 128, struct.pack("!HH", 7, 1) + b"piagent!")


def _icmpv6(
    to: bytes, mac: bytes, ends: tuple[IPv6Address, IPv6Address], kind: int, body: bytes
) -> bytes:
    addresses = ends[0].packed + ends[1].packed
    size = 4 + len(body)
    unsummed = struct.pack("!BBH", kind, 0, 0) + body
    checksum = internet_checksum(addresses + struct.pack("!II", size, 58) + unsummed)
    header = struct.pack("!IHBB", 6 << 28, size, 58, 255) + addresses
    icmp = struct.pack("!BBH", kind, 0, checksum) + body
    return to + mac + struct.pack("!H", _ETH_P_IPV6) + header + icmp
