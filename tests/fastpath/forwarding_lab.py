"""A client, a node that forwards, and backends, each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from fastpath.forwarding import Forwarder
from fastpath.forwards import Forward, Target
from fastpath.packet.flow_cache import FlowCache
from piagent.adapters import netns
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.packet_filter import program
from tests.adapters.asker import mac_of
from tests.adapters.two_hosts import run

KEY = bytes(range(16))
PORTS = (50000, 50999)
VIPS = {4: "10.9.0.9", 6: "fd09::9"}
OWN = {4: "10.9.0.1", 6: "fd09::1"}
CLIENT = {4: "10.9.0.100", 6: "fd09::100"}
PORT = 80


def backend_address(number: int, version: int = 4) -> str:
    """Of the backend of that number, which begin with 1."""
    return f"10.9.0.{10 + number}" if version == 4 else f"fd09::{10 + number}"


def accept_vips(host: netns.Host) -> None:
    """Have a host take packets to the VIPs, and answer no ARP for them."""
    with host.entered():
        for name in ("all", netns.INTERFACE):
            folder = Path("/proc/sys/net/ipv4/conf", name)
            (folder / "arp_ignore").write_text("1")
            (folder / "arp_announce").write_text("2")
        run(host, "ip", "addr", "add", f"{VIPS[4]}/32", "dev", "lo")
        run(host, "ip", "addr", "add", f"{VIPS[6]}/128", "dev", "lo", "nodad")
        run(host, "ip", "link", "set", "lo", "up")


class Lab:
    """Everything on one bridge; the forwarder runs in this process, in the node's namespace."""

    def __init__(
        self,
        network: netns.Network,
        n_backends: int = 2,
        *,
        cache: FlowCache | None = None,
        mtu: int = 1500,
        **more: object,
    ) -> None:
        self.client = network.add_host("c", *(f"{CLIENT[v]}/{24 if v == 4 else 64}" for v in VIPS))
        vips = (f"{VIPS[4]}/32", f"{VIPS[6]}/128")
        self.node = network.add_host("n", f"{OWN[4]}/24", f"{OWN[6]}/64", *vips)
        self.backends = [
            network.add_host(f"b{i}", f"{backend_address(i)}/24", f"{backend_address(i, 6)}/64")
            for i in range(1, n_backends + 1)
        ]
        self._mtu = mtu
        for host in (self.client, self.node, *self.backends):
            run(network._bridge, "ip", "link", "set", host.port, "mtu", str(mtu))
            run(host, "ip", "link", "set", netns.INTERFACE, "mtu", str(mtu))
        self._fence = ForwardFence()
        with self.node.entered():
            self.index = socket.if_nametoindex(netns.INTERFACE)
            if cache is not None:
                cache.open([self.index], "auto")
                more["cache"] = cache
            self.forwarder = Forwarder(self.index, mtu, hash_key=KEY, ports=PORTS, **more)  # type: ignore[arg-type]
        self.forwarder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forwarder.stop()
        with self.node.entered():
            self._fence.remove()
            self._fence.close()

    def target(self, number: int, version: int = 4, **more: object) -> Target:
        """The backend of that number, as it can be reached."""
        address = backend_address(number, version)
        found = Target(
            name=f"b{number}", address=address, port=PORT, weight=1, up=True,
            interface=self.index, mac=mac_of(self.backends[number - 1]), own_mac=mac_of(self.node),
            source=OWN[version], mtu=self._mtu,
        )  # fmt: skip
        return found._replace(**more)  # type: ignore[arg-type]

    def itself(self, version: int = 4) -> Target:
        """The node as a backend of what it forwards."""
        return Target("n", OWN[version], PORT, weight=1, up=True).here()

    def forward(
        self, how: str, *, version: int = 4, udp: bool = False, targets: Sequence[Target] = (),
        **more: object,
    ) -> Forward:  # fmt: skip
        """The VIP's port, to all backends if not told otherwise."""
        every = [self.target(i, version) for i in range(1, len(self.backends) + 1)]
        made = Forward(
            f"web-{version}-{udp}", VIPS[version], PORT, udp, how, tuple(targets or every)
        )
        return made._replace(**more)  # type: ignore[arg-type]

    def publish(self, *forwards: Forward) -> None:
        """Have it forward these, and hide them from the node's own stack."""
        taken = [
            Forwarded(one.address, UDP if one.udp else TCP, one.port, one.port) for one in forwards
        ]
        if any(one.how == "nat" for one in forwards):
            taken += [Forwarded(OWN[v], p, *PORTS) for v in VIPS for p in (TCP, UDP)]
        with self.node.entered():
            self._fence.take(netns.INTERFACE, taken)
        wraps = OWN.values() if any(one.how == "ipip" for one in forwards) else ()
        self.forwarder.publish(forwards, program(taken, wraps))

    def accept_vip(self, number: int) -> None:
        """Have a backend take packets to the VIPs, and answer no ARP for them."""
        accept_vips(self.backends[number - 1])

    def stats(self, name: str = "web-4-False") -> dict[str, int]:
        """What became of packets of a service; zeros left out."""
        packets = self.forwarder.stats()["services"][name]["packets"]
        return {what: n for what, n in packets.items() if n}


@contextlib.contextmanager
def serving(
    host: netns.Host, address: str, *, udp: bool = False, says: Callable[[bytes], bytes]
) -> Iterator[None]:
    """Answer on PORT of an address inside a host, until the end."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with host.entered():
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, PORT))
    if not udp:
        listening.listen(64)
    ended = threading.Event()
    accepted: list[socket.socket] = []
    listening.settimeout(0.1)

    def answer(stream: socket.socket) -> None:
        with stream, contextlib.suppress(OSError):  # a test may leave it without an end
            while data := stream.recv(65536):
                stream.sendall(says(data))

    def work() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                if udp:
                    data, peer = listening.recvfrom(65536)
                    listening.sendto(says(data), peer)
                else:
                    stream, _ = listening.accept()
                    stream.settimeout(30)
                    accepted.append(stream)
                    threading.Thread(target=answer, args=(stream,), daemon=True).start()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        listening.close()
        for stream in accepted:  # to some no end ever comes
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
