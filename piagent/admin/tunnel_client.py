"""The other end of `admin.tunnel`: asks an agent for a stream to a backend of a service."""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import urlencode

import h11
from msgspec import Struct

from piagent.admin.api import TUNNEL
from piagent.admin.client import (
    ANSWER_MAX,
    RETRY_S,
    Remote,
    Where,
    explained,
    refused,
    request_of,
)
from piagent.admin.tunnel import ATTEMPTS, BACKEND_HEADER, CONNECT_S, PROTOCOL

TIMEOUT_S = ATTEMPTS * CONNECT_S + 3


class OpenTunnel(Struct):
    """A stream to a backend."""

    sock: socket.socket
    """Not blocking."""
    backend: str
    """Its address and port."""
    early: bytes
    """What it has sent already."""


def tunnel_target(service: str, port: str = "", backend: str = "") -> str:
    """What to ask for to reach a service; empty: its first port, any healthy backend."""
    parts = {"service": service, "port": port, "backend": backend}
    return f"{TUNNEL}?{urlencode({key: value for key, value in parts.items() if value})}"


async def open_tunnel(where: Where, target: str) -> OpenTunnel:
    """A new connection to an agent that leads to a backend; raises AskError."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            sock = await _connect(where)
            try:
                return await _upgrade(sock, where, target)
            except BaseException:
                sock.close()
                raise
    except (OSError, h11.ProtocolError) as error:
        raise explained(where, error) from None


async def _connect(where: Where) -> socket.socket:
    """A connection to an agent; to the first address of its name that accepts."""
    if not isinstance(where, Remote):
        return await _try(socket.AF_UNIX, where)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    for family, _, _, _, address in found[:-1]:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await _try(family, address)
        except OSError:
            continue
    return await _try(found[-1][0], found[-1][4])


async def _try(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(sock, address)
            return sock
        while True:
            try:
                sock.connect(address)
            except BlockingIOError:  # a full queue, which a Unix socket does not wait for
                await asyncio.sleep(RETRY_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


async def _upgrade(sock: socket.socket, where: Where, target: str) -> OpenTunnel:
    loop = asyncio.get_running_loop()
    connection, request = request_of(where, sock, target, upgrade=PROTOCOL)
    await loop.sock_sendall(sock, request)
    status, content = 0, bytearray()
    while len(content) <= ANSWER_MAX:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await loop.sock_recv(sock, 65536))
        elif isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                backend = dict(event.headers).get(BACKEND_HEADER.lower().encode(), b"?")
                return OpenTunnel(sock, backend.decode("latin-1"), connection.trailing_data[0])
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            raise refused(where, status, bytes(content))
        else:
            raise ConnectionError("the connection ended early")
    raise ConnectionError(f"an answer of more than {ANSWER_MAX} bytes")
