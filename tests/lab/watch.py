"""Who answers for an address: ARP questions from the client, and the kernels' own lists."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from piagent.adapters.netlink import IFA_PROTO_PIAGENT
from piagent.adapters.netns import INTERFACE, Host
from piagent.adapters.nftables import Nftables
from piagent.adapters.rtnetlink import RTM_GETADDR, Rtnetlink, ifaddrmsg
from tests.lab.lab import spoken_for

_ETH_P_ARP = 0x0806
_REPLY = b"\x00\x01\x08\x00\x06\x04\x00\x02"
"""The fixed beginning of an ARP reply for IPv4 on Ethernet."""


@dataclass(frozen=True)
class Sample:
    """Everybody who had the address at one moment."""

    asked_s: float
    """time.monotonic; whoever is named had the address after this and before `heard_s`."""
    heard_s: float
    names: frozenset[str]


class Watch:
    """Asks again and again in two threads, until the `with` block ends."""

    def __init__(
        self, vip: str, client: Host, nodes: dict[str, Host], every_s: float = 0.005
    ) -> None:
        self._vip = vip
        self._every_s = every_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_the_lan),
            threading.Thread(target=self._ask_the_kernels),
        ]
        self._kernels: dict[str, tuple[Rtnetlink, int]] = {}
        self._fences: dict[str, Nftables] = {}
        macs: dict[bytes, str] = {}
        for name, host in nodes.items():
            with host.entered():
                kernel, self._fences[name] = Rtnetlink(), Nftables()
            link = kernel.link(INTERFACE)
            macs[link.mac] = name
            self._kernels[name] = (kernel, link.index)
        self._names = macs
        with client.entered(), Rtnetlink() as kernel:
            self._mac = kernel.link(INTERFACE).mac
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
            self._wire.bind((INTERFACE, _ETH_P_ARP))
        self.answers: list[Sample] = []
        """Who answered each question."""
        self.lists: list[Sample] = []
        """Which kernels had the address and answered for it."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._wire.close()
        for kernel, _index in self._kernels.values():
            kernel.close()
        for fence in self._fences.values():
            fence.close()

    def _ask_the_lan(self) -> None:
        # From 0.0.0.0, as RFC 5227 probes: it teaches nobody anything.
        vip = IPv4Address(self._vip).packed
        question = (
            b"\xff" * 6
            + self._mac
            + struct.pack("!HHHBBH", _ETH_P_ARP, 1, 0x0800, 6, 4, 1)
            + self._mac
            + bytes(4)
            + bytes(6)
            + vip
        )
        while not self._stop.is_set():
            asked_s = time.monotonic()
            self._wire.send(question)
            names = set()
            while (left_s := asked_s + self._every_s - time.monotonic()) > 0:
                if select.select([self._wire], [], [], left_s)[0]:
                    frame = self._wire.recv(2048)
                    # Gratuitous replies have our VIP as their target; an answer has 0.0.0.0.
                    if frame[14:22] == _REPLY and frame[28:32] == vip and frame[38:42] == bytes(4):
                        names.add(self._names.get(frame[22:28], frame[22:28].hex()))
            self.answers.append(Sample(asked_s, time.monotonic(), frozenset(names)))

    def _ask_the_kernels(self) -> None:
        while not self._stop.wait(4 * self._every_s):
            asked_s = time.monotonic()
            names = frozenset(
                name
                for name, (kernel, index) in self._kernels.items()
                if self._has(kernel, index) and self._vip in spoken_for(self._fences[name])
            )
            self.lists.append(Sample(asked_s, time.monotonic(), names))

    def _has(self, kernel: Rtnetlink, index: int) -> bool:
        return any(
            entry["index"] == index
            and entry.get_attr("IFA_PROTO") == IFA_PROTO_PIAGENT
            and entry.get_attr("IFA_LOCAL") == self._vip
            for entry in kernel.dump(ifaddrmsg(), RTM_GETADDR)
        )


@dataclass(frozen=True)
class Overlap:
    """A time in which more than one node had the address."""

    from_s: float
    to_s: float
    names: frozenset[str]

    @property
    def length_s(self) -> float:
        return self.to_s - self.from_s


def overlaps(samples: Sequence[Sample]) -> list[Overlap]:
    """The times in which consecutive samples name more than one; too long rather than too short."""
    found: list[Overlap] = []
    going = False
    for sample in samples:
        if len(sample.names) < 2:
            going = False
        elif going:
            found[-1] = Overlap(found[-1].from_s, sample.heard_s, found[-1].names | sample.names)
        else:
            found.append(Overlap(sample.asked_s, sample.heard_s, sample.names))
            going = True
    return found


def owners(samples: Iterable[Sample]) -> set[str]:
    """Everybody who ever had it."""
    return {name for sample in samples for name in sample.names}
