"""A client, a forwarder and a backend on one bridge, and a slow path for what the cache leaves.

The client reaches a VIP, the backend the address that NAT sends from, by way of the forwarder; the
forwarder's kernel has neither address and is told to be silent about both.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import ipaddress
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import Self

from fastpath.packet import _probe as probe
from fastpath.packet.flow_cache import FlowCache, Use
from piagent.adapters import netns
from piagent.adapters.rtnetlink import Rtnetlink
from tests.fastpath.packet.flow_caches import (
    ENCAPSULATE,
    ETH0,
    MAC,
    NAT,
    Flow,
    delta,
    nat,
    reverse,
    rewrite,
)
from tests.fastpath.packet.frames import TCP, mapped, summed

CLIENT = {4: "10.9.0.2", 6: "fd09::2"}
FORWARDER = {4: "10.9.0.1", 6: "fd09::1"}
BACKEND = {4: "10.9.0.3", 6: "fd09::3"}
VIP = {4: "10.9.1.1", 6: "fd09:1::1"}
NAT_SOURCE = {4: "10.9.2.1", 6: "fd09:2::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
FORWARDER_PORT = "to0"
"""The bridge's end of the forwarder's cable."""
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_ETH_P_ALL = 3
_SIOCETHTOOL, _RX_GRO, _TX_CHECKSUM, _SCATTER = 0x8946, 0x2C, 0x17, 0x19
_FRAME_MAX = 1 << 17


class Lab:
    """The network; a context manager."""

    def __init__(self) -> None:
        self._network = netns.Network("pa-forward")

    def __enter__(self) -> Self:
        self._network.__enter__()
        try:
            self._build()
        except BaseException:
            self._network.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._network.close()

    def _build(self) -> None:
        places = {"forwarder": FORWARDER, "client": CLIENT, "backend": BACKEND}
        for name, its in places.items():
            self._network.add_host(name, f"{its[4]}/24", f"{its[6]}/64")
        self.forwarder, self.client, self.backend = self._network.hosts.values()
        for family in (4, 6):
            self.ip(self.client, "route", "add", VIP[family], "via", FORWARDER[family])
            self.ip(self.backend, "route", "add", NAT_SOURCE[family], "via", FORWARDER[family])
            for address in (VIP[family], NAT_SOURCE[family]):
                self.ip(self.forwarder, "route", "add", "blackhole", address)
        self.macs = {host: self._mac(host) for host in self._network.hosts.values()}

    def ip(self, host: netns.Host, *words: str) -> None:
        subprocess.run(host.command(["ip", *words]), check=True, capture_output=True)

    def own_vip(self) -> None:
        """Backends have it on `lo`, with dsr."""
        self.ip(self.backend, "addr", "add", f"{VIP[4]}/32", "dev", "lo")
        self.ip(self.backend, "-6", "addr", "add", f"{VIP[6]}/128", "dev", "lo", "nodad")
        # It would ask for the client by its link-local address, which takes seconds to be had.
        client = ("lladdr", self.macs[self.client].hex(":"), "dev", netns.INTERFACE)
        self.ip(self.backend, "neigh", "replace", CLIENT[6], *client)

    def ready_for_xdp(self, *, checksums: bool = True) -> None:
        """As hardware is: what leaves by XDP is received, what comes has its checksum."""
        with self._network._bridge.entered():
            _ethtool(FORWARDER_PORT, _RX_GRO, 1)
            _ethtool(FORWARDER_PORT, _TX_CHECKSUM, not checksums)

    def no_offload(self) -> None:
        """The forwarder's kernel cuts super-frames and sums up itself."""
        with self.forwarder.entered():
            _ethtool(netns.INTERFACE, _SCATTER, 0)
            _ethtool(netns.INTERFACE, _TX_CHECKSUM, 0)

    def received(self) -> int:
        """Frames, super-frames being one, that the forwarder's interface got."""
        done = subprocess.run(
            self.forwarder.command(["cat", "/proc/thread-self/net/dev"]),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        row = next(line for line in done.stdout.splitlines() if netns.INTERFACE in line)
        return int(row.split(":")[1].split()[1])

    def _mac(self, host: netns.Host) -> bytes:
        with host.entered(), Rtnetlink() as rtnetlink:
            return rtnetlink.link(netns.INTERFACE).mac


class Forwarder:
    """A cache in the forwarder's namespace, and what takes the packets that it leaves."""

    def __init__(self, lab: Lab, how: str) -> None:
        self._lab = lab
        self._flows: dict[bytes, dict[str, object]] = {}
        self._to_stop = threading.Event()
        self.slow = 0
        """Packets that went the slow path."""
        with lab.forwarder.entered():
            self.cache = FlowCache(flows=64)
            self.cache.open([ETH0], how)  # type: ignore[arg-type]
            self._tap = self._opened_tap()
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()

    def close(self) -> None:
        self._to_stop.set()
        self._thread.join()
        self._tap.close()
        with self._lab.forwarder.entered():
            self.cache.close()

    def dsr(self, flow: Flow, *, carried: bool = True) -> None:
        """Towards the backend's MAC."""
        self._add(flow, 0, self._lab.backend, rewrite(MAC), {"how": MAC}, carried=carried)

    def ipip(self, flow: Flow, to: str, *, mtu: int = 1480) -> None:
        own = FORWARDER[6 if ":" in to else 4]
        made = rewrite(ENCAPSULATE, source=own, destination=to, mtu=mtu)
        what: dict[str, object] = {"how": ENCAPSULATE, "source": mapped(own)}
        what |= {"destination": mapped(to), "v6": ":" in to}
        self._add(flow, 0, self._lab.backend, made, what)

    def nat(self, flow: Flow, inside: Flow) -> None:
        """Both directions: uses 0 and 1."""
        back, out = reverse(inside), reverse(flow)
        for use, (old, new, host) in enumerate(
            ((flow, inside, self._lab.backend), (back, out, self._lab.client))
        ):
            what: dict[str, object] = {
                "how": NAT, "v6": ":" in new.source, "source": mapped(new.source),
                "destination": mapped(new.destination), "source_port": new.ports.source,
                "destination_port": new.ports.destination,
            }  # fmt: skip
            self._add(old, use, host, nat(old, new, use=use), what)

    def use(self, index: int) -> Use:
        return self.cache.use(index)

    def _add(
        self,
        flow: Flow,
        use: int,
        host: netns.Host,
        made: bytes,
        what: dict[str, object],
        *,
        carried: bool = True,
    ) -> None:
        macs = (self._lab.macs[host], self._lab.macs[self._lab.forwarder])
        self._flows[flow.key] = what | {"destination_mac": macs[0], "source_mac": macs[1]}
        if carried:
            assert self.cache.put(flow.key, made[:52] + b"".join(macs))

    def _opened_tap(self) -> socket.socket:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        tap.bind((netns.INTERFACE, _ETH_P_ALL))
        self.cache.hide_from(tap.fileno())
        return tap

    def _forward(self) -> None:
        while not self._to_stop.is_set():
            if select.select([self._tap], [], [], 0.05)[0]:
                frame = self._tap.recv(_FRAME_MAX)
                _, packet = probe.parse(frame)
                source, sport, destination, dport, protocol = packet["key"]
                key = source + destination
                key += struct.pack(">HHB3x", sport, dport, protocol)
                what = self._flows.get(key)
                if what is not None:
                    self.slow += 1
                    with contextlib.suppress(OSError):  # a super-frame: sent again in pieces
                        self._tap.send(self._rewritten(frame, packet, what))

    @staticmethod
    def _rewritten(frame: bytes, packet: dict[str, int], what: dict[str, object]) -> bytes:
        """With a checksum from scratch: that of a packet that a local stack sent is not there."""
        if what["how"] == ENCAPSULATE:
            made: bytes = probe.encapsulate(frame, what)[1]
            return made
        made = probe.rewrite(frame, what)[1]
        width, at = (16, 22) if packet["v6"] else (4, 26)
        addresses = [made[at : at + width], made[at + width : at + 2 * width]]
        source, destination = (str(ipaddress.ip_address(each)) for each in addresses)
        l4, end = packet["l4"], packet["end"]
        return made[:l4] + summed(source, destination, packet["protocol"], made[l4:end])


@contextlib.contextmanager
def forwarding(lab: Lab, how: str) -> Iterator[Forwarder]:
    made = Forwarder(lab, how)
    try:
        yield made
    finally:
        made.close()


def super_frame(frame: bytes, segment_size: int) -> bytes:
    """A virtio_net_hdr and the TCP frame, with its checksum and its cutting left to a device."""
    v6 = frame[12:14] == b"\x86\xdd"
    l4 = 54 if v6 else 34
    at, width = (22, 16) if v6 else (26, 4)
    over = frame[at : at + 2 * width] + struct.pack(">HH", TCP, len(frame) - l4)
    total = delta(b"\xff\xff" * (len(over) // 2), over)
    made = frame[: l4 + 16] + struct.pack("=H", total) + frame[l4 + 18 :]
    header = struct.pack("=BBHHHH", 1, 4 if v6 else 1, l4 + 20, segment_size, l4, 16)
    return header + made


def _ethtool(name: str, command: int, value: int) -> None:
    wanted = array.array("B", struct.pack("=II", command, value))
    address, _ = wanted.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
