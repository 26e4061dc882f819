"""Where the demo's processes live: network namespaces on a bridge (root), or loopback addresses."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from piagent.adapters.netns import INTERFACE, Network, why_not

PORTS_TRIED = 100


class Place(Struct, frozen=True):
    """A host of the demo, real enough to be killed alone."""

    name: str
    address: str
    interface: str | None
    """None on loopback."""


class Site(Protocol):
    """A small LAN."""

    vip: str
    http_port: int
    tcp_port: int
    backend_http_port: int
    backend_tcp_port: int
    broker_port: int
    nodes: tuple[Place, ...]
    backends: tuple[Place, ...]
    broker: Place
    pool: str | None
    """The addresses of the pool; None: the VIP needs none."""

    def command(self, place: Place, /, *argv: str) -> list[str]:
        """`argv`, run on that host."""
        ...

    def client_socket(self) -> socket.socket:
        """A fresh TCP socket of the client's host."""
        ...

    def client_prefix(self) -> str:
        """What to type before a command to run it as the client; ends with a blank if not empty."""
        ...

    def close(self) -> None:
        """Leave nothing behind; to be called when the processes have ended."""
        ...


def make_site(nodes: int, *, loopback: bool, say: Callable[[str], None]) -> Site:
    """Network namespaces where they work, else loopback addresses; says which, and why."""
    reason = "as asked for" if loopback else why_not()
    if reason is None:
        try:
            site = NamespaceSite(nodes)
        except OSError as error:  # a container may forbid some of it, a kernel may lack bridges
            reason = f"network namespaces do not work here: {error}"
        else:
            say("network namespaces on a bridge, with a real VIP that moves")
            return site
    say(f"loopback addresses ({reason})")
    return LoopbackSite(nodes)


class LoopbackSite:
    """Everything on this host's 127.0.0.0/8: needs no rights. Owning the VIP is listening on it."""

    pool: str | None = None

    def __init__(self, nodes: int) -> None:
        net = f"127.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
        self.vip = f"{net}.100"
        self.broker = Place("broker", f"{net}.2", None)
        self.nodes = tuple(Place(f"pi-{i}", f"{net}.{10 + i}", None) for i in range(1, nodes + 1))
        self.backends = tuple(Place(f"backend-{i}", f"{net}.{200 + i}", None) for i in (1, 2, 3))
        behind = [place.address for place in self.backends]
        self.http_port = _free_port(8080, [self.vip])
        self.tcp_port = _free_port(7000, [self.vip])
        self.backend_http_port = _free_port(8080, behind)
        self.backend_tcp_port = _free_port(7000, behind)
        self.broker_port = _free_port(1883, [self.broker.address])

    def command(self, _place: Place, /, *argv: str) -> list[str]:
        """Just `argv`: there is one host."""
        return list(argv)

    def client_socket(self) -> socket.socket:
        """A TCP socket."""
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def client_prefix(self) -> str:
        """Nothing: the addresses are the user's own host's."""
        return ""

    def close(self) -> None:
        """Nothing was made."""


class NamespaceSite:
    """A bridge and a network namespace for each host; nothing else on this machine is touched."""

    def __init__(self, nodes: int) -> None:
        self.http_port, self.tcp_port = 80, 7000
        self.backend_http_port, self.backend_tcp_port = 8080, 7000
        self.broker_port = 1883
        net = "10.77.0"
        self.vip = f"{net}.100"
        self.pool: str | None = f"{net}.100-{net}.110"
        self.broker = Place("broker", f"{net}.2", INTERFACE)
        self.nodes = tuple(
            Place(f"pi-{i}", f"{net}.{10 + i}", INTERFACE) for i in range(1, nodes + 1)
        )
        self.backends = tuple(
            Place(f"backend-{i}", f"{net}.{200 + i}", INTERFACE) for i in (1, 2, 3)
        )
        client = Place("client", f"{net}.3", INTERFACE)
        self._network = Network("piagent-demo").__enter__()
        try:
            for place in (self.broker, client, *self.nodes, *self.backends):
                self._network.add_host(place.name, f"{place.address}/24")
        except BaseException:
            self._network.close()
            raise
        self._client = self._network.hosts[client.name]

    def command(self, place: Place, /, *argv: str) -> list[str]:
        """`argv` inside the host's namespace."""
        return self._network.hosts[place.name].command(argv)

    def client_socket(self) -> socket.socket:
        """A TCP socket that lives in the client's namespace."""
        with self._client.entered():
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    def client_prefix(self) -> str:
        """Enters the client's namespace."""
        return shlex.join(self._client.command(())) + " "

    def close(self) -> None:
        """Remove the namespaces, and with them every device and address in them."""
        self._network.close()


def _free_port(preferred: int, addresses: Sequence[str]) -> int:
    """The first port from `preferred` on that nobody uses on any of the addresses."""
    for port in range(preferred, preferred + PORTS_TRIED):
        with contextlib.suppress(OSError):
            for address in addresses:
                socket.create_server((address, port)).close()
            return port
    raise OSError(errno.EADDRINUSE, f"no free port from {preferred} on", addresses[0])
