"""Places to listen for tests."""

from __future__ import annotations

import random
import socket

_NOT_EPHEMERAL = range(10_000, 30_000)
"""Ports that the kernel gives to nobody by itself, and that are no node ports."""


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listened on a moment ago, and that no client gets meanwhile."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    while True:
        port = random.choice(_NOT_EPHEMERAL)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port


def free_udp_port(address: str = "127.0.0.1") -> int:
    """The same for UDP and TCP."""
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
