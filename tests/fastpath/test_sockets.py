"""What the kernel gives accepted sockets of the options that listening ones have."""

from __future__ import annotations

import socket

import pytest

from fastpath.sockets import LOST_S, listen, prepare_stream, resolve
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
