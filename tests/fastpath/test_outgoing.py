"""Where connections to backends come from, and what happens when ports run out."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath.engine import Engine, Gateway, Listener, Service, Tables
from piagent.adapters import netns
from tests.fastpath.http.gateways import to
from tests.fastpath.peers import PATIENCE_S, Server, connect, read_all, running
from tests.net import free_port
from tests.waiting import wait_until

SOURCES = ("127.0.0.2", "127.0.0.3")
SOURCES6 = ("fd00:7::2", "fd00:7::3")
FEW = (40_000, 40_003)
N_FEW = FEW[1] - FEW[0] + 1
WHO = b"%s %d\n"


def tell(connection: socket.socket) -> None:
    """Say who connected, and wait for the end."""
    host, port = connection.getpeername()[:2]
    connection.sendall(WHO % (host.encode(), port))
    connection.recv(1)


class Held(contextlib.ExitStack):
    """Connections that stay open, and where the engine connected from for them."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._n = 0
        self.clients: list[socket.socket] = []
        self.sources: list[tuple[str, int]] = []

    def open(self) -> bool:
        """One more; whether it reached a backend. The client's port is none of the few."""
        self._n += 1
        here = ("127.0.0.1", 50_000 + self._n)
        client = socket.create_connection(("127.0.0.1", self._port), PATIENCE_S, here)
        self.clients.append(self.enter_context(client))
        said = b""
        while not said.endswith(b"\n"):
            data = client.recv(100)
            if not data:
                return False
            said += data
        host, port = said.decode().split()
        self.sources.append((host, int(port)))
        return True


@pytest.fixture
def few_ports() -> Iterator[None]:
    """In a network namespace whose loopback interface has few ports for those who connect."""
    if netns.why_not() is not None:
        pytest.skip(str(netns.why_not()))
    space = netns.Namespace(f"outgoing-{os.getpid()}")
    space.create()
    try:
        with space.entered():
            for address in SOURCES6:
                command = ("ip", "addr", "add", address, "dev", "lo", "nodad")
                subprocess.run(command, check=True)
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("{} {}".format(*FEW))
            yield
    finally:
        space.destroy()


def tables(port: int, service: Service) -> Tables:
    return Tables((Listener("127.0.0.1", port, "s", http=False),), (service,), ())


def backends(n: int, address: str = "127.0.0.1") -> list[Server]:
    """With ports that are none of the few."""
    return [Server(tell, address, 30_000 + i) for i in range(n)]


def no_ports(engine: Engine) -> int:
    counted: int = engine.stats()["ends"]["s"]["rejected"]["no_local_port"]
    return counted


def full(engine: Engine, service: Service, room: int) -> list[tuple[str, int]]:
    """Open as many as there is room for, and one more that is turned away; their sources."""
    port = 30_100
    engine.publish(tables(port, service))
    with Held(port) as held:
        for _ in range(room):
            assert held.open()
        assert no_ports(engine) == 0
        assert not held.open()
        wait_until(lambda: no_ports(engine) == 1)
    assert not engine.stats()["services"]["s"]["0"]["connect_failures"]
    return held.sources


@pytest.mark.usefixtures("few_ports")
@pytest.mark.parametrize("n_backends", [1, 2])
def test_each_backend_has_all_ports_and_without_any_a_connection_is_turned_away(
    n_backends: int,
) -> None:
    servers = backends(n_backends)
    places = tuple(server.backend(str(i)) for i, server in enumerate(servers))
    with running() as engine:
        sources = full(engine, Service("s", places), n_backends * N_FEW)
    ports = [port for _, port in sources]
    assert sorted(ports) == sorted([*range(FEW[0], FEW[1] + 1)] * n_backends)
    for server in servers:
        server.close()


@pytest.mark.usefixtures("few_ports")
@pytest.mark.parametrize(("address", "sources"), [("127.0.0.1", SOURCES), ("fd00:7::2", SOURCES6)])
def test_each_source_address_has_all_ports_towards_each_backend(
    address: str, sources: tuple[str, ...]
) -> None:
    servers = backends(2, address)
    places = tuple(server.backend(str(i)) for i, server in enumerate(servers))
    # Addresses of the other family and ones that are not this host's are passed over.
    service = Service("s", places, sources=("192.0.2.7", *SOURCES, *SOURCES6, "2001:db8::7"))
    with running() as engine:
        used = full(engine, service, 4 * N_FEW)
    assert sorted(used) == sorted(
        [(source, port) for source in sources for port in range(FEW[0], FEW[1] + 1)] * 2
    )
    for server in servers:
        server.close()


@pytest.mark.usefixtures("few_ports")
def test_a_port_that_has_become_free_is_used_again() -> None:
    servers = backends(1)
    with running() as engine:
        engine.publish(tables(30_100, Service("s", (servers[0].backend("0"),))))
        with Held(30_100) as held:
            for _ in range(N_FEW):
                assert held.open()
            assert not held.open()
            # The backend ends one first, so that the TIME-WAIT is on its side.
            held.clients[0].sendall(b"x")
            assert read_all(held.clients[0]) == b""
            held.clients[0].close()
            wait_until(lambda: engine.stats()["services"]["s"]["0"]["open"] == N_FEW - 1)
            assert held.open()
            assert held.sources[-1] == held.sources[0]
    servers[0].close()


@pytest.mark.usefixtures("few_ports")
def test_a_gateway_answers_503_when_no_port_is_left() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        connection.recv(1)

    server = Server(answer, "127.0.0.1", 30_000)
    listener = Listener("127.0.0.1", 30_100, "g", http=True)
    service = Service("s", (server.backend("0"),))
    gateway = Gateway("g", any_depth=False, routes=(to("s"),))
    with running() as engine, contextlib.ExitStack() as held:
        engine.publish(Tables((listener,), (service,), (gateway,)))
        answers = []
        for n in range(N_FEW + 1):
            client = socket.create_connection(
                ("127.0.0.1", 30_100), PATIENCE_S, ("127.0.0.1", 50_000 + n)
            )
            held.enter_context(client)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answers.append(client.recv(12))
        assert answers == [b"HTTP/1.1 200"] * N_FEW + [b"HTTP/1.1 503"]
    server.close()


def test_source_addresses_share_the_connections() -> None:
    server = Server(tell)
    with running() as engine, contextlib.ExitStack() as held:
        port = free_port()
        sources = ("::1", *SOURCES, "127.0.0.4")
        service = Service("s", (server.backend("0"),), sources=sources)
        engine.publish(tables(port, service))
        hosts = []
        for _ in range(60):
            client = held.enter_context(connect(port))
            hosts.append(client.recv(100).split()[0].decode())
        assert set(hosts) == {*SOURCES, "127.0.0.4"}
        assert all(hosts.count(host) >= 5 for host in set(hosts))
    server.close()


def test_a_source_that_is_not_this_hosts_turns_connections_away_and_says_why() -> None:
    server = Server(tell)
    with running() as engine:
        port = free_port()
        service = Service("s", (server.backend("0"),), sources=("192.0.2.7",))
        engine.publish(tables(port, service))
        with connect(port) as client:
            assert read_all(client) == b""
        wait_until(lambda: no_ports(engine) == 1)
    server.close()
