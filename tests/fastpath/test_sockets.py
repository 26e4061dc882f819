"""Options that sockets have on both sides of the engine, so that vanished peers are found out."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

import pytest

from fastpath.sockets import LOST_S, listen, prepare_stream, resolve
from tests.fastpath.peers import Server, connect, read_exactly, running, tcp_tables
from tests.net import free_port


def option(connection: socket.socket, level: int, name: int) -> int:
    return connection.getsockopt(level, name)


def lasts(connection: socket.socket) -> bool:
    """Whether it has all that a connection of ours should have."""
    tcp = socket.IPPROTO_TCP
    probes = option(connection, tcp, socket.TCP_KEEPCNT)
    every = option(connection, tcp, socket.TCP_KEEPINTVL)
    return (
        option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        and option(connection, tcp, socket.TCP_KEEPIDLE) + probes * every == LOST_S
        and option(connection, tcp, socket.TCP_USER_TIMEOUT) == LOST_S * 1000
        and option(connection, tcp, socket.TCP_NODELAY) == 1
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_accepted_sockets_inherit_what_finds_peers_that_have_vanished(address: str) -> None:
    port = free_port(address)
    [descriptor] = listen(resolve(address, port), 1, udp=False, alone=True)
    with (
        socket.socket(fileno=descriptor) as listening,
        socket.create_connection((address, port)) as client,
    ):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert lasts(accepted)
        assert not lasts(client)
        prepare_stream(client.fileno())
        assert lasts(client)


@contextlib.contextmanager
def engines_sockets(client: socket.socket, server: Server) -> Iterator[list[socket.socket]]:
    """The two sockets of this process that are connected to these peers."""
    peers = (client.getsockname(), (server.address, server.port))
    with contextlib.ExitStack() as found:
        sockets = []
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # closed meanwhile, or not connected
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                each = found.enter_context(socket.socket(fileno=os.dup(descriptor)))
                if each.family == socket.AF_INET and each.getpeername() in peers:
                    sockets.append(each)
        yield sockets


def test_the_engines_sockets_to_clients_and_backends_find_out_who_has_vanished() -> None:
    server, port = Server(), free_port()
    with running() as engine:
        engine.publish(tcp_tables(port, server.backend("a")))
        with connect(port) as client:
            client.sendall(b"x")
            assert read_exactly(client, 1) == b"x"
            with engines_sockets(client, server) as (first, second):
                for each in (first, second):
                    tcp = socket.IPPROTO_TCP
                    assert option(each, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert option(each, tcp, socket.TCP_KEEPIDLE) < LOST_S
                    assert option(each, tcp, socket.TCP_USER_TIMEOUT) == LOST_S * 1000
                    assert option(each, tcp, socket.TCP_NODELAY) == 1
    server.close()
