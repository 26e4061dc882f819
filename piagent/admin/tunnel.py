"""Tunnels: a request becomes a stream to one backend of a service (RFC 9110, section 7.8).

`GET /api/v1/tunnel?service=web&port=80` with `Upgrade: piagent-tunnel/1` is answered with 101 once
a backend has accepted, and from then on the connection is the backend's. Only backends of the
service that is asked for can be reached so, whatever the request says.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from piagent.admin.answer import Refused
from piagent.admin.api import Source
from piagent.admin.status import Tunnel, TunnelBackend
from piagent.core.model import Backend, Protocol, Service, ServicePort, host_port
from piagent.core.proxying import NOBODYS_HEADER

PROTOCOL: Final = "piagent-tunnel/1"
"""In the Upgrade header."""
BACKEND_HEADER: Final = "Piagent-Backend"
"""In the 101: where the tunnel ends."""
CONNECT_S: Final = 3.0
ATTEMPTS: Final = 4
"""Backends to try before giving up."""
LISTED: Final = 20
"""Names in a message, at most."""
_KEYS: Final = ("service", "port", "backend")


def way(
    services: Iterable[Service],
    down: AbstractSet[tuple[str, str]],
    wanted: tuple[str, str, str],
) -> Tunnel:
    """Where a tunnel leads; raises Refused when there is nothing of the kind.

    `wanted`: the service's name, its port by number or name (empty: its first), and the address of
    one backend (empty: any that gets new connections, in random order by weight). A backend that is
    asked for by its address is tried though it is down: that may be why it is asked for.
    """
    name, wanted_port, wanted_backend = wanted
    service = next((each for each in services if each.name == name), None)
    if service is None:
        known = _listed(each.name for each in services)
        raise Refused(404, "no such service", f"there is no service {name[:64]!r}; known: {known}")
    port = _port(service, wanted_port)
    backends = [each for each in service.backends if each.only in (None, port.name)]
    if wanted_backend:
        chosen = _pinned(service, backends, wanted_backend)
    else:
        chosen = [each for each in backends if each.weight and (name, each.id) not in down]
        chosen.sort(key=lambda each: random.expovariate(each.weight))
        if not chosen:
            what = f"service {name} has {len(backends)} backends, and none of them is up"
            raise Refused(503, "no healthy backend", what)
    return Tunnel(
        service=name,
        port=port.port,
        backends=tuple(
            TunnelBackend(each.address, each.port or port.target_port) for each in chosen
        ),
        header=service.proxying.header,
    )


def asked(source: Source, target: str) -> Tunnel:
    """Where the tunnel that a request's target asks for leads; raises Refused."""
    try:
        given = parse_qsl(urlsplit(target).query, keep_blank_values=True, max_num_fields=8)
    except ValueError as error:
        raise Refused(400, "bad request", f"not a query: {error}") from None
    values = dict(given)
    if len(values) < len(given) or not values.keys() <= set(_KEYS) or not values.get("service"):
        what = "the query is service=NAME, port=NUMBER-OR-NAME and backend=ADDRESS, each once"
        raise Refused(400, "bad request", what)
    service, port, backend = (values.get(key, "") for key in _KEYS)
    return source.tunnel(service, port, backend)


async def connect(tunnel: Tunnel) -> tuple[str, socket.socket]:
    """The first of its backends that accepts, as "address:port", and the connection to it.

    Raises Refused when none does.
    """
    failures = []
    for backend in tunnel.backends[:ATTEMPTS]:
        place = host_port(backend.address, backend.port)
        try:
            return place, await _connect(backend, NOBODYS_HEADER[tunnel.header])
        except TimeoutError:
            failures.append(f"{place}: no answer in {CONNECT_S:g} s")
        except OSError as error:
            # asyncio's own text says nothing but the address.
            failures.append(f"{place}: {os.strerror(error.errno) if error.errno else error}")
    raise Refused(502, "no backend accepts", "; ".join(failures))


async def _connect(backend: TunnelBackend, header: bytes) -> socket.socket:
    family = socket.AF_INET6 if ":" in backend.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(CONNECT_S):
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (backend.address, backend.port))
            await loop.sock_sendall(sock, header)
    except BaseException:
        sock.close()
        raise
    return sock


def _port(service: Service, wanted: str) -> ServicePort:
    found = [each for each in service.ports if wanted in ("", each.name, str(each.port))]
    if not found:
        known = _listed(str(each.port) for each in service.ports)
        what = f"service {service.name} has no port {wanted[:64]!r}; its ports: {known}"
        raise Refused(404, "no such port", what)
    carried = next((each for each in found if each.protocol is Protocol.TCP), None)
    if carried is None:
        what = f"port {found[0].port} of service {service.name} is UDP: a tunnel carries TCP"
        raise Refused(400, "not a TCP port", what)
    return carried


def _pinned(service: Service, backends: list[Backend], wanted: str) -> list[Backend]:
    try:
        address = str(ip_address(wanted))
    except ValueError:
        address = wanted  # an id: address and port
    found = [each for each in backends if address in (each.address, each.id)]
    if not found:
        known = _listed(each.id for each in backends)
        what = f"{wanted[:64]!r} is no backend of service {service.name}; known: {known}"
        raise Refused(404, "no such backend", what)
    return found


def _listed(names: Iterable[str]) -> str:
    words = list(names)
    more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return (", ".join(words[:LISTED]) or "none") + more
