"""What clients and backends of the soak say to each other, and in which order they end.

A client sends how it wants to end, a size, and so many bytes; the backend sends the bytes back.
"""

from __future__ import annotations

import random
import socket
import struct

HEAD = struct.Struct("!BI")
"""Ending, size."""
CLIENT_FIRST, BACKEND_FIRST, CLIENT_CLOSES, CLIENT_RESETS = range(4)
ENDINGS = (CLIENT_FIRST, BACKEND_FIRST, CLIENT_CLOSES, CLIENT_RESETS)
RESET = struct.pack("ii", 1, 0)
PATIENCE_S = 20.0
SMALL, LARGE = 4000, 400_000
BLOCK = random.Random(1).randbytes(LARGE + 4096)


def payload(chance: random.Random) -> bytes:
    """Mostly small; one in 64 is long enough to be spliced."""
    start = chance.randrange(4096)
    size = chance.randrange(1, LARGE if chance.randrange(64) == 0 else SMALL)
    return BLOCK[start : start + size]


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer at the end of the stream."""
    parts = []
    while size > 0 and (part := connection.recv(min(size, 1 << 18))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def ask(address: str, port: int, source: str, chance: random.Random) -> bool:
    """One connection from beginning to end; whether every byte came back as it was sent."""
    ending, data = chance.choice(ENDINGS), payload(chance)
    with socket.create_connection((address, port), PATIENCE_S, (source, 0)) as connection:
        connection.sendall(HEAD.pack(ending, len(data)) + data)
        if ending == CLIENT_FIRST:
            connection.shutdown(socket.SHUT_WR)
        whole = read_exactly(connection, len(data)) == data
        if ending in {CLIENT_FIRST, BACKEND_FIRST}:
            return whole and connection.recv(1) == b""
        if ending == CLIENT_RESETS:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return whole


def answer(connection: socket.socket) -> None:
    """The backend's part."""
    head = read_exactly(connection, HEAD.size)
    if len(head) < HEAD.size:
        return  # a health check, or a client that went at once
    ending, size = HEAD.unpack(head)
    connection.sendall(read_exactly(connection, size))
    if ending != BACKEND_FIRST:
        read_exactly(connection, 1)
