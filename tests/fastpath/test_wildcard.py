"""Listeners on every address of a family, as node ports are."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from fastpath.engine import Engine, Gateway, Listener, Service, Tables
from piagent.adapters import netns
from tests.fastpath.http.gateways import Web, to
from tests.fastpath.peers import (
    PATIENCE_S,
    Datagrams,
    Server,
    connect,
    read_exactly,
    running,
    udp_tables,
)
from tests.net import free_port
from tests.waiting import wait_until

ALL4, ALL6 = "0.0.0.0", "::"
PLACES = ["127.0.0.1", "127.9.9.9", "::1"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running(workers=2) as started:
        yield started


def everywhere(port: int, target: str, **kind: bool) -> tuple[Listener, ...]:
    kind.setdefault("http", False)
    return tuple(Listener(address, port, target, **kind) for address in (ALL4, ALL6))


def said(client: socket.socket) -> bytes:
    client.sendall(b"x")
    return read_exactly(client, 1)


def test_tcp_and_udp_come_on_every_address_of_both_families(engine: Engine) -> None:
    port = free_port()
    streams, datagrams = Server(), Datagrams("u")
    engine.publish(
        Tables(
            (*everywhere(port, "t"), *everywhere(port, "u", udp=True)),
            (Service("t", (streams.backend("t"),)), Service("u", (datagrams.backend(),))),
            (),
        )
    )
    assert set(engine.stats()["listeners"]) == {
        f"{host}:{port}{kind}" for host in (ALL4, f"[{ALL6}]") for kind in ("", "/udp")
    }
    for address in PLACES:
        with connect(port, address) as client:
            assert said(client) == b"x"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(PATIENCE_S)
            asking.sendto(b"x", (address, port))
            answer, sender = asking.recvfrom(100)
            assert (answer, sender[:2]) == (b"ux", (address, port))


def test_connections_are_counted_and_cut_by_the_listeners_address(engine: Engine) -> None:
    port = free_port()
    service = Service("t", (Server().backend("t"),))
    own = Listener("127.0.0.2", port, "t", http=False)  # a VIP's, with the same port
    for listeners in ((*everywhere(port, "t"), own), (own, *everywhere(port, "t"))):
        engine.publish(Tables(listeners, (service,), ()))
        with contextlib.ExitStack() as clients:
            places = ["127.0.0.1", "127.9.9.9", "::1", "127.0.0.2"]
            first, second, third, fourth = (
                clients.enter_context(connect(port, address)) for address in places
            )
            assert [said(client) for client in (first, second, third, fourth)] == [b"x"] * 4
            counts = [engine.active_on(each) for each in (ALL4, ALL6, "127.0.0.2", "127.0.0.1")]
            assert counts == [2, 1, 1, 0]
            assert engine.cut(ALL4) == 2
            for client in (first, second):
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            assert said(third) == said(fourth) == b"x"
        wait_until(lambda: engine.active() == 0)
        engine.publish(Tables((), (), ()))


def test_one_family_leaves_the_other_alone(engine: Engine) -> None:
    port = free_port()
    service = Service("t", (Server().backend("t"),))
    for listener, reached, refused in zip(
        everywhere(port, "t"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1"), strict=True
    ):
        engine.publish(Tables((listener,), (service,), ()))
        with connect(port, reached) as client:
            assert said(client) == b"x"
        with pytest.raises(ConnectionRefusedError):
            connect(port, refused)


MANY = ("10.9.9.1", "10.9.9.2", "fd00:9::1", "fd00:9::2", "fe80::9")
# Not among them, for the kernel likes to answer from the very address that it sends to.
ASKING = {socket.AF_INET: "10.9.9.3", socket.AF_INET6: "fd00:9::3"}


@pytest.fixture
def inside() -> Iterator[None]:
    """In a network namespace whose loopback interface has many addresses."""
    if netns.why_not() is not None:
        pytest.skip(str(netns.why_not()))
    space = netns.Namespace(f"wildcard-{os.getpid()}")
    space.create()
    try:
        with space.entered():
            for address in (*MANY, *ASKING.values()):
                options = ("nodad",) if ":" in address else ()
                subprocess.run(("ip", "addr", "add", address, "dev", "lo", *options), check=True)
            yield
    finally:
        space.destroy()


@pytest.mark.usefixtures("inside")
def test_datagrams_are_answered_from_the_address_that_was_asked() -> None:
    port = 5353
    server = Datagrams("a")
    with running() as engine:
        service = Service("u", (server.backend(),))
        engine.publish(Tables(everywhere(port, "u", udp=True), (service,), ()))
        clients = {family: socket.socket(family, socket.SOCK_DGRAM) for family in ASKING}
        for family, client in clients.items():
            client.bind((ASKING[family], 0))
        for address in MANY:
            scope = (0, socket.if_nametoindex("lo") if address.startswith("fe80") else 0)
            where = (address, port, *scope) if ":" in address else (address, port)
            client = clients[socket.AF_INET6 if ":" in address else socket.AF_INET]
            client.settimeout(PATIENCE_S)
            client.sendto(b"x", where)
            assert client.recvfrom(100) == (b"ax", where)
        for client in clients.values():
            client.close()
        assert engine.stats()["udp"]["sessions"] == len(MANY)


@pytest.mark.usefixtures("inside")
def test_an_answer_whose_address_has_left_is_not_sent() -> None:
    server = Datagrams("a")
    server.silent = True
    with running() as engine, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        engine.publish(udp_tables(5353, server.backend(), address="10.9.9.2"))
        client.sendto(b"x", ("10.9.9.2", 5353))
        wait_until(lambda: server.heard)
        subprocess.run(("ip", "addr", "del", "10.9.9.2/32", "dev", "lo"), check=True)
        server.answer(0)
        wait_until(lambda: engine.stats()["udp"]["dropped"]["unsent"] == 1)
        subprocess.run(("ip", "addr", "add", "10.9.9.2/32", "dev", "lo"), check=True)
        server.answer(0)
        assert client.recvfrom(100) == (b"ax", ("10.9.9.2", 5353))


@pytest.mark.parametrize("address", PLACES)
def test_a_request_without_host_gets_the_address_that_it_came_to(
    engine: Engine, address: str
) -> None:
    port = free_port()
    web = Web()
    engine.publish(
        Tables(
            everywhere(port, "g", http=True),
            (Service("s", (web.backend(),)),),
            (Gateway("g", any_depth=False, routes=(to(),)),),
        )
    )
    with connect(port, address) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1")
    host = f"[{address}]" if ":" in address else address
    assert web.requests[0].all("host") == [f"{host}:{port}"]
