"""Backends that are told by a PROXY header who the client is."""

from __future__ import annotations

import struct

import pytest

from fastpath.engine import Backend, Retries, Service, Tables
from tests.fastpath.http.gateways import Client, Peer, ok, scripted, tables, to
from tests.fastpath.peers import Server, break_off, running
from tests.net import free_port

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def told(port: int, backend: Backend, version: int, **changes: object) -> Tables:
    """Tables whose service tells its backends."""
    service = Service("s", (backend,), proxy_header=version)
    return tables(port, backend, **changes)._replace(services=(service,))  # type: ignore[arg-type]


def header_of(peer: Peer) -> tuple[str, int, str, int]:
    """Who connects where: address and port of the client and of the gateway."""
    first = peer.file.read(12)
    if first != SIGNATURE:
        line = first + peer.file.readline()
        _, family, source, destination, sport, dport = line.decode().split()
        assert family == "TCP4"
        return source, int(sport), destination, int(dport)
    command, family, size = struct.unpack("!BBH", peer.file.read(4))
    assert (command, family, size) == (0x21, 0x11, 12)
    source, destination, sport, dport = struct.unpack("!4s4sHH", peer.file.read(12))
    dotted = [".".join(map(str, each)) for each in (source, destination)]
    return dotted[0], sport, dotted[1], dport


def answering() -> Server:
    """A backend that answers with what its connection began with, as often as it is asked."""

    def talk(peer: Peer) -> None:
        header = header_of(peer)
        while (seen := peer.request()) is not None:
            peer.send(ok(f"{seen.line.split()[0]} {header}".encode()))

    return scripted(talk)


@pytest.mark.parametrize("version", [1, 2])
def test_each_request_has_a_connection_that_names_its_client(version: int) -> None:
    server = answering()
    port = free_port()
    with running() as engine:
        engine.publish(told(port, server.backend("b"), version))
        with Client(port) as first, Client(port) as second:
            for _ in range(3):
                for client in (first, second):
                    place = (*client.socket.getsockname(), "127.0.0.1", port)
                    assert client.get()[2] == f"GET {place}".encode()
                    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                    assert client.response()[2] == f"POST {place}".encode()
        assert server.n_accepted == 12


def test_tables_that_begin_or_cease_to_tell_count_from_the_next_request() -> None:
    server = answering()
    port = free_port()
    silent = scripted(lambda peer: [peer.request() and peer.send(ok(b"plain")) for _ in range(9)])
    with running() as engine:
        engine.publish(tables(port, silent.backend("b")))
        with Client(port) as client:
            assert client.get()[2] == b"plain"
            engine.publish(told(port, server.backend("b"), 2))
            assert client.get()[2].startswith(b"GET ('127.0.0.1'")
            engine.publish(tables(port, silent.backend("b")))
            assert client.get()[2] == b"plain"


def test_a_kept_connection_without_a_header_is_not_taken_for_one_with_it() -> None:
    """The same backend, at the same place."""
    seen: list[bytes] = []

    def talk(peer: Peer) -> None:
        first = peer.socket.recv(1 << 16)
        seen.append(first[:3])
        peer.send(ok())
        while peer.socket.recv(1 << 16):
            peer.send(ok())

    server = scripted(talk)
    port = free_port()
    with running() as engine:
        engine.publish(tables(port, server.backend("b")))
        with Client(port) as client:
            for version in (0, 1, 0, 1):
                engine.publish(told(port, server.backend("b"), version))
                assert client.get()[0] == 200
    assert seen == [b"GET", b"PRO", b"PRO"]


def test_another_try_says_it_again() -> None:
    headers = []

    def talk(peer: Peer) -> None:
        headers.append(header_of(peer))
        peer.request()
        if len(headers) < 3:
            break_off(peer.socket)
        else:
            peer.send(ok())

    server = scripted(talk)
    port = free_port()
    routes = (to(retries=Retries(2, backoff_ms=0)),)
    with running() as engine:
        engine.publish(told(port, server.backend("b"), 2, routes=routes))
        with Client(port) as client:
            assert client.get()[0] == 200
            assert headers == [(*client.socket.getsockname(), "127.0.0.1", port)] * 3
