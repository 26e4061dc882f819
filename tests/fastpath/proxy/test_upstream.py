"""What routers and hosts say by ICMP of a UDP session's way to its backend."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from fastpath.engine import Engine
from tests.fastpath.peers import PATIENCE_S, Datagrams, running, udp_tables
from tests.net import free_udp_port
from tests.waiting import wait_until

UNREACHABLE, TIME_EXCEEDED, SOURCE_QUENCH = 3, 11, 4
HOST, PROTOCOL, PORT, FRAGMENTATION_NEEDED, FILTERED = 1, 2, 3, 4, 13
LOOPBACK = socket.inet_aton("127.0.0.1")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running() as started:
        yield started


@pytest.fixture
def raw() -> Iterator[socket.socket]:
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW, to send ICMP errors")
    with opened:
        yield opened


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def error_about(upstream: int, backend: int, kind: int, code: int) -> bytes:
    """An ICMP error about a datagram from port to port (RFC 792); the path takes 65535 bytes."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 228, 0, 0, 64, 17, 0, LOOPBACK, LOOPBACK)
    about = ip + struct.pack("!HHHH", upstream, backend, 208, 0)
    head = struct.pack("!BBHHH", kind, code, 0, 0, 65535)
    return struct.pack("!BBHHH", kind, code, checksum(head + about), 0, 65535) + about


def client_of(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", port))
    return client


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UNREACHABLE, code) for code in (HOST, PROTOCOL, PORT, FILTERED)] + [(TIME_EXCEEDED, 0)],
)
def test_a_backend_that_cannot_be_reached_is_left_for_the_next_choice(
    engine: Engine, raw: socket.socket, kind: int, code: int
) -> None:
    port = free_udp_port()
    servers = {name: Datagrams(name) for name in "ab"}
    engine.publish(udp_tables(port, *(server.backend() for server in servers.values())))
    with client_of(port) as client:
        client.send(b"1")
        first = client.recv(10).decode()[0]
        other = {"a": "b", "b": "a"}[first]
        servers[first].silent = True
        client.send(b"2")
        wait_until(lambda: len(servers[first].heard) == 2)
        upstream = int(servers[first].heard[0][0].rpartition(":")[2])
        # What has come from it is passed on all the same.
        servers[first].answer(1)
        raw.sendto(error_about(upstream, servers[first].port, kind, code), ("127.0.0.1", 0))
        assert client.recv(10) == f"{first}2".encode()
        wait_until(lambda: engine.stats()["services"]["s"][first]["connect_failures"] == 1)
        client.send(b"3")
        assert client.recv(10) == f"{other}3".encode()
    assert len(servers[first].heard) == 2
    assert engine.stats()["udp"]["sessions"] == 1


@pytest.mark.parametrize(
    ("kind", "code"), [(UNREACHABLE, FRAGMENTATION_NEEDED), (SOURCE_QUENCH, 0)]
)
def test_news_of_the_path_ends_nothing(
    engine: Engine, raw: socket.socket, kind: int, code: int
) -> None:
    port = free_udp_port()
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        client.send(b"1")
        assert client.recv(10) == b"a1"
        upstream = int(server.heard[0][0].rpartition(":")[2])
        for turn in range(100):
            raw.sendto(error_about(upstream, server.port, kind, code), ("127.0.0.1", 0))
            client.send(b"%d" % turn)
            assert client.recv(10) == b"a%d" % turn
    assert len({sender for sender, _ in server.heard}) == 1
    assert engine.stats()["services"]["s"]["a"]["connect_failures"] == 0
    assert not any(engine.stats()["udp"]["dropped"].values())


def test_an_error_about_somebody_else_is_none_of_ours(engine: Engine, raw: socket.socket) -> None:
    """Ports must be right for an error to be believed; a flood of others does nothing."""
    port = free_udp_port()
    server = Datagrams("a")
    engine.publish(udp_tables(port, server.backend()))
    with client_of(port) as client:
        client.send(b"1")
        assert client.recv(10) == b"a1"
        upstream = int(server.heard[0][0].rpartition(":")[2])
        for wrong in range(1, 200):
            error = error_about(upstream, (server.port + wrong) % 65536, UNREACHABLE, PORT)
            raw.sendto(error, ("127.0.0.1", 0))
        client.send(b"2")
        assert client.recv(10) == b"a2"
    assert len({sender for sender, _ in server.heard}) == 1
    assert engine.stats()["services"]["s"]["a"]["connect_failures"] == 0
