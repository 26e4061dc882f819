"""Places to listen for tests."""

from __future__ import annotations

import random
import socket

_NOT_EPHEMERAL = range(10_000, 30_000)
"""Ports that the kernel gives to nobody by itself, and that are no node ports."""


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as probe:
        return int(probe.getsockname()[1])


def free_udp_port(address: str = "127.0.0.1") -> int:
    """A port that is free for UDP and TCP, and that no client's socket gets in the meantime."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        port = random.choice(_NOT_EPHEMERAL)
        with (
            socket.socket(family, socket.SOCK_DGRAM) as datagrams,
            socket.socket(family, socket.SOCK_STREAM) as stream,
        ):
            try:
                datagrams.bind((address, port))
                stream.bind((address, port))
            except OSError:
                continue
            return port
