"""Who has this address now: gratuitous ARP and unsolicited neighbour advertisements."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from piagent.adapters.rtnetlink import Link

REPEAT_AFTER_S = (0.0, 1.0, 2.0, 5.0, 10.0)
"""When an owner announces, counted from the acquisition; later each `REPEAT_EVERY_S`."""
REPEAT_EVERY_S = 60.0

_ETH_BROADCAST = b"\xff" * 6
_ETH_ALL_NODES = b"\x33\x33\x00\x00\x00\x01"
_ETH_P_ARP, _ETH_P_IP, _ETH_P_IPV6 = 0x0806, 0x0800, 0x86DD
_ARP_ETHERNET = 1
_ARP_REQUEST, _ARP_REPLY = 1, 2
_ALL_NODES = IPv6Address("ff02::1")
_ICMPV6, _NEIGHBOUR_ADVERTISEMENT = 58, 136
_NA_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2
_MAC_SIZE = 6

_log = logging.getLogger(__name__)


def arp_frame(mac: bytes, address: IPv4Address, *, reply: bool) -> bytes:
    """A broadcast Ethernet frame with a gratuitous ARP request or reply.

    Sender and target address are both the announced one (RFC 5227 section 3, RFC 826 for the
    fields). The target's hardware address is zero in the request and ours in the reply; some
    hosts learn from the one form only, some from the other, so both are sent.
    """
    operation = _ARP_REPLY if reply else _ARP_REQUEST
    target = mac if reply else bytes(_MAC_SIZE)
    return (
        _ETH_BROADCAST
        + mac
        + struct.pack("!HHHBBH", _ETH_P_ARP, _ARP_ETHERNET, _ETH_P_IP, _MAC_SIZE, 4, operation)
        + mac
        + address.packed
        + target
        + address.packed
    )


def neighbour_advertisement_frame(mac: bytes, address: IPv6Address) -> bytes:
    """An Ethernet frame with an unsolicited neighbour advertisement to all nodes.

    RFC 4861 section 7.2.6: override flag set, solicited flag clear, hop limit 255 (section 7.1.2
    has receivers discard any other), target link-layer address option (section 4.6.1).
    """
    option = struct.pack("!BB", _TARGET_LINK_LAYER_ADDRESS, 1) + mac
    body = struct.pack("!I", _NA_OVERRIDE) + address.packed + option
    unsummed = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + body
    # The pseudo header of RFC 8200 section 8.1 comes first in the sum.
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(unsummed), _ICMPV6)
    checksum = internet_checksum(pseudo + unsummed)
    packet = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    header = struct.pack("!IHBB", 6 << 28, len(packet), _ICMPV6, 255)
    return (
        _ETH_ALL_NODES
        + mac
        + struct.pack("!H", _ETH_P_IPV6)
        + header
        + address.packed
        + _ALL_NODES.packed
        + packet
    )


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


def frame_socket() -> socket.socket:
    """Open what `announce` sends through, in the calling thread's namespace; needs CAP_NET_RAW."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def announce(channel: socket.socket, link: Link, address: str) -> None:
    """Send the frames of an address at once; OSError when the interface does not take them.

    An interface without Ethernet addresses (a tunnel) has nobody to tell.
    """
    if len(link.mac) == _MAC_SIZE:
        for frame in frames(link.mac, address):
            channel.sendto(frame, (link.name, 0))


class Announcer:
    """Repeats the announcement of every owned address, for hosts that missed the first."""

    def __init__(self, announce_once: Callable[[str], Awaitable[None]]) -> None:
        self._announce_once = announce_once
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, address: str) -> None:
        """Announce now and then by the schedule, until stopped; a running schedule begins anew."""
        self.stop(address)
        self._tasks[address] = asyncio.create_task(
            self._repeat(address), name=f"announce {address}"
        )

    def stop(self, address: str) -> None:
        """Say nothing more about the address."""
        task = self._tasks.pop(address, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stop all."""
        for address in list(self._tasks):
            self.stop(address)

    async def _repeat(self, address: str) -> None:
        passed_s = 0.0
        for at_s in REPEAT_AFTER_S:
            await asyncio.sleep(at_s - passed_s)
            passed_s = at_s
            await self._once(address)
        while True:
            await asyncio.sleep(REPEAT_EVERY_S)
            await self._once(address)

    async def _once(self, address: str) -> None:
        try:
            await self._announce_once(address)
        except Exception as error:  # noqa: BLE001 - the next repetition may well work
            _log.warning("address %s: not announced: %s", address, error)
