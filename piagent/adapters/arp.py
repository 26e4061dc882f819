"""Who has this address now: announcements, sent at once and again by a schedule."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv6Address, ip_address

from piagent.adapters.frames import (
    MAC_SIZE,
    arp_frame,
    frames,
    neighbour_advertisement_frame,
)
from piagent.adapters.neighbours import Neighbour
from piagent.adapters.rtnetlink import Link

REPEAT_AFTER_S = (0.0, 1.1, 2.2, 3.3, 4.4)
"""When an owner announces, counted from the acquisition; later each `REPEAT_EVERY_S`.

1.1 s is more than the second for which Linux believes what it has just learnt (`locktime`, arp(7)).
"""
REPEAT_EVERY_S = 60.0

_log = logging.getLogger(__name__)


def frame_socket() -> socket.socket:
    """Open what `announce` sends through, in the calling thread's namespace; needs CAP_NET_RAW.

    It never blocks: an interface that has stopped sending lets its queue run full.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_PACKET, kind, 0)


def announce(channel: socket.socket, link: Link, address: str) -> None:
    """Send the frames of an address at once; OSError when the interface does not take them.

    An interface without Ethernet addresses (a tunnel) has nobody to tell.
    """
    if len(link.mac) == MAC_SIZE:
        for frame in frames(link.mac, address):
            channel.sendto(frame, (link.name, 0))


def announce_each(
    channel: socket.socket, link: Link, address: str, neighbours: Iterable[Neighbour]
) -> None:
    """Tell each of these neighbours alone; Wi-Fi repeats a lost frame for one receiver only."""
    if len(link.mac) == MAC_SIZE:
        for frame in _unicast(link.mac, address, neighbours):
            channel.sendto(frame, (link.name, 0))


def _unicast(mac: bytes, address: str, neighbours: Iterable[Neighbour]) -> Iterable[bytes]:
    """The announcement for each neighbour of the address's family.

    The ARP reply stays gratuitous (sender and target are the address): so Linux believes it even
    within its `locktime`.
    """
    announced = ip_address(address)
    for neighbour in neighbours:
        its = ip_address(neighbour.address)
        if isinstance(announced, IPv6Address):
            if isinstance(its, IPv6Address):
                yield neighbour_advertisement_frame(mac, announced, (neighbour.mac, its))
        elif its.version == 4:
            yield arp_frame(mac, announced, reply=True, to=neighbour.mac)


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
