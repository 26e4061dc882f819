"""A small network with an agent's view of its LAN on one host, for the tests of `KernelLan`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from piagent.adapters import netns
from piagent.adapters.frames import mac_text
from piagent.adapters.lan import KernelLan
from piagent.adapters.rtnetlink import RTM_DELADDR, Rtnetlink, ifaddrmsg
from piagent.ports import AddressConflict, AddressGone, Egress, LanEvent, LinkState


class Seen:
    """What was delivered so far."""

    def __init__(self) -> None:
        self.events: list[LanEvent] = []

    @property
    def links(self) -> list[tuple[bool, str]]:
        return [(e.up, e.reason) for e in self.events if isinstance(e, LinkState)]

    @property
    def gone(self) -> list[str]:
        return [e.vip for e in self.events if isinstance(e, AddressGone)]

    @property
    def conflicts(self) -> list[tuple[str, str]]:
        return [(e.vip, e.mac) for e in self.events if isinstance(e, AddressConflict)]

    @property
    def egress(self) -> list[Egress]:
        return [e for e in self.events if isinstance(e, Egress)]


@asynccontextmanager
async def running(lan: KernelLan) -> AsyncIterator[Seen]:
    """It runs meanwhile; the caller is in its namespace. The link's state has been delivered."""
    seen = Seen()
    task = asyncio.create_task(lan.run(seen.events.append))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert isinstance(seen.events[0], LinkState)
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def mac_of(host: netns.Host) -> str:
    with host.entered(), Rtnetlink() as rtnetlink:
        return mac_text(rtnetlink.link("eth0").mac)


def wire(host: netns.Host) -> socket.socket:
    """What sends and hears any frame on the host's interface."""
    with host.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth0", 3))
    opened.settimeout(5)
    return opened


def delete_address(host: netns.Host, address: str, prefix: int) -> None:
    """As `ip address del` does it."""
    message = ifaddrmsg()
    message["family"] = socket.AF_INET6 if ":" in address else socket.AF_INET
    message["prefixlen"] = prefix
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    with host.entered(), Rtnetlink() as rtnetlink:
        message["index"] = rtnetlink.link("eth0").index
        rtnetlink.change(message, RTM_DELADDR)


def run(host: netns.Namespace, *argv: str) -> None:
    subprocess.run(host.command(argv), check=True, capture_output=True)
