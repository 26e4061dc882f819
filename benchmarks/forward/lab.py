"""A client, backends, and nodes that forward between them, each node in its own way.

All are on one bridge. What a node's interface receives is worked off on FORWARD_CPU, by a kernel
thread (threaded NAPI), as by a card whose interrupts go there; everything else is on LOAD_CPU.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from array import array
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forward.wire import MAC_PREFIX
from piagent.adapters import netns
from tests.adapters.asker import mac_of

FORWARD_CPU, LOAD_CPU = 0, 1
N_BACKENDS = 16
PORT = 80
PREFIX = 16
CLIENT = "10.78.0.2"
ROUTED = {"client": "198.18.1", "backend": "198.18.2"}
"""Networks that plain routing is between: nodes have .254 of each, the ends .1."""
CLIENT_MAC, BACKEND_MAC = MAC_PREFIX + b"\0\1", MAC_PREFIX + b"\0\2"
_SIOCETHTOOL, _RX_GRO, _TX_CHECKSUM, _TX_CUTTING = 0x8946, 0x2C, 0x17, 0x1F


def backend(number: int) -> str:
    """An address of the host with the backends."""
    return f"10.78.2.{1 + number}"


def run(host: netns.Namespace, *argv: str, given: str = "") -> None:
    """A command inside; CalledProcessError has what it said."""
    subprocess.run(host.command(argv), check=True, input=given, capture_output=True, text=True)


def _ethtool(interface: str, command: int, value: int) -> None:
    wanted = array("I", [command, value])
    request = struct.pack("16sP", interface.encode(), wanted.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def _napi_threads(interface: str) -> set[int]:
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith(f"napi/{interface}-"):
                found.add(int(comm.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _write_sys(where: netns.Namespace, path: str, value: str) -> None:
    """`ip netns exec` has the namespace's own /sys."""
    change = f"echo {value} > /sys/class/net/{path}"
    argv = ["ip", "netns", "exec", where.name, "sh", "-c", change]
    subprocess.run(argv, check=True, capture_output=True, text=True)


def _receive_in_thread(where: netns.Namespace, interface: str, cpu: int) -> int:
    """Have the kernel receive an interface's frames in a thread there; its id."""
    before = _napi_threads(interface)
    _write_sys(where, f"{interface}/threaded", "1")
    (thread,) = _napi_threads(interface) - before
    os.sched_setaffinity(thread, {cpu})
    return thread


class Node:
    """A host that forwards; it has a VIP."""

    def __init__(self, network: netns.Network, number: int) -> None:
        self.vip = f"10.78.1.{1 + number}"
        self.address = f"10.78.0.{10 + number}"
        addresses = [f"{self.address}/{PREFIX}", f"{self.vip}/32"]
        self.host = network.add_host(f"n{number}", *addresses)
        self.mac = mac_of(self.host)
        with self.host.entered():
            self.index = socket.if_nametoindex(netns.INTERFACE)
            _ethtool(netns.INTERFACE, _RX_GRO, 1)
            run(
                self.host,
                "sysctl",
                "-qw",
                "net.ipv4.ip_forward=1",
                "net.ipv4.conf.all.send_redirects=0",
                f"net.ipv4.conf.{netns.INTERFACE}.send_redirects=0",
            )
        with self.host.bridge.entered():
            self.port_index = socket.if_nametoindex(self.host.port)
            _ethtool(self.host.port, _RX_GRO, 1)  # what is sent to it by XDP is received
            _ethtool(self.host.port, _TX_CUTTING, 0)  # packets come as by a cable, one by one
        # What is behind the cable is not this node's work.
        _write_sys(self.host.bridge, f"{self.host.port}/queues/rx-0/rps_cpus", f"{1 << LOAD_CPU:x}")
        self.receiver = _receive_in_thread(self.host, netns.INTERFACE, FORWARD_CPU)
        neighbours = {backend(i): BACKEND_MAC for i in range(N_BACKENDS)} | {CLIENT: CLIENT_MAC}
        for address, mac in neighbours.items():
            run(self.host, "ip", "neigh", "replace", address, "lladdr", mac.hex(":"),
                "dev", netns.INTERFACE, "nud", "permanent")  # fmt: skip
        run(self.host, "ip", "route", "add", "default", "via", CLIENT)

    def wants_checksums(self) -> None:
        """Frames come with them, as from a card: XDP does not know of those that do not."""
        with self.host.bridge.entered():
            _ethtool(self.host.port, _TX_CHECKSUM, 0)

    def routes(self) -> None:
        """Be the router between the ends' other networks."""
        for name, mac in (("client", CLIENT_MAC), ("backend", BACKEND_MAC)):
            self.host.add_address(f"{ROUTED[name]}.254/24")
            run(self.host, "ip", "neigh", "replace", f"{ROUTED[name]}.1", "lladdr", mac.hex(":"),
                "dev", netns.INTERFACE, "nud", "permanent")  # fmt: skip


class Ends:
    """The client and the backends, two hosts."""

    def __init__(self, network: netns.Network) -> None:
        self.client = self._host(network, "c", CLIENT_MAC, [CLIENT])
        self.backend = self._host(
            network, "b", BACKEND_MAC, [backend(i) for i in range(N_BACKENDS)]
        )
        for host, its, other in (
            (self.client, "client", "backend"), (self.backend, "backend", "client"),
        ):  # fmt: skip
            host.add_address(f"{ROUTED[its]}.1/24")
            run(host, "ip", "route", "add", f"{ROUTED[other]}.0/24", "via", f"{ROUTED[its]}.254")
        with self.backend.entered():
            # Datagrams of the benchmark end here: nobody says that nobody listens.
            self._silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._silent.bind(("0.0.0.0", PORT))

    def _host(
        self, network: netns.Network, name: str, mac: bytes, addresses: Sequence[str]
    ) -> netns.Host:
        host = network.add_host(name, *(f"{address}/{PREFIX}" for address in addresses))
        run(host, "ip", "link", "set", netns.INTERFACE, "address", mac.hex(":"))
        return host

    def accept(self, vip: str) -> None:
        """Have the backends take packets to a VIP, and answer no ARP for it."""
        run(self.backend, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1",
            "net.ipv4.conf.all.arp_announce=2")  # fmt: skip
        run(self.backend, "ip", "addr", "add", f"{vip}/32", "dev", "lo")

    def close(self) -> None:
        """Of the socket."""
        self._silent.close()
