"""A node's own file, what was applied, what the leader assigned, what registered itself -> what is.

The result is a configuration like a file's, with every address in its place: all the rest of the
agent knows no other. What cannot be is left out with the reason, and the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.assignments import Assignment, Assignments
from piagent.core.filters import Asked
from piagent.core.lease_types import MAX_KEYS
from piagent.core.model import (
    Backend,
    Config,
    Gateway,
    Pool,
    PoolType,
    Protocol,
    Route,
    RouteBackend,
    Service,
    routed,
)
from piagent.core.plan import is_loopback
from piagent.core.records import Kind, key_of
from piagent.core.wants import Want, want_of_service, wants_of

Thing = Service | Gateway | Route


class CatalogReason(StrEnum):
    """Why something that was applied or assigned is not, or not wholly, there on a node."""

    NAME_TAKEN = "name-taken"
    """This node's file has another of that name."""
    UNREADABLE = "unreadable"
    """This version cannot read what was applied."""
    NOT_HERE_YET = "not-here-yet"
    """What was applied has not come from a broker yet."""
    NOT_ASSIGNED_YET = "not-assigned-yet"
    """No leader has given it an address or port yet."""
    NO_SUCH_POOL_HERE = "no-such-pool-here"
    """No pool of this node's file has the VIP: the node never owns it."""
    LEADS_NOWHERE = "leads-nowhere"
    """The gateway or service that a route or a default backend names is not there."""
    PORT_TAKEN = "port-taken"
    """Another service or gateway here has the address and port."""
    TOO_MANY_VIPS = "too-many-vips"
    PORT_UNAVAILABLE = "port-unavailable"
    """Another program has the port, or this one may not listen on it."""
    ADDRESS_UNAVAILABLE = "address-unavailable"
    """A cluster address, or the VIP of BGP or of a `dsr` backend, cannot be on this node's `lo`."""
    BACKEND_UNREACHED = "backend-unreached"
    """Packets that are forwarded do not get to a backend with such an address or port."""
    NEVER_TAKEN = "never-taken"
    """Another route comes first for all that a route, or a default backend, could take."""
    LOG_UNWRITABLE = "log-unwritable"
    """An access log cannot be written on this node."""


class Note(Struct, frozen=True):
    """Something that is not as it was wished."""

    key: str
    """`service/web`."""
    reason: str
    """In the words of `CatalogReason` or `AllocationReason`."""
    detail: str


class Merged(Struct, frozen=True):
    """What is, and what is not."""

    config: Config
    notes: tuple[Note, ...]


def wants_of_things(things: Iterable[Thing]) -> dict[str, Want]:
    """What each service and gateway asks for, which may be nothing; routes ask for nothing."""
    services, gateways = [], []
    for thing in things:
        if isinstance(thing, Service):
            services.append(thing)
        elif isinstance(thing, Gateway):
            gateways.append(thing)
    return wants_of(services, gateways)


def merge(
    file: Config,
    assigned: Assignments | None,
    applied: Mapping[str, Thing | Note],
    endpoints: Mapping[str, Sequence[Backend]],
) -> Merged:
    """Put it together.

    `applied`: by key what is in force, or why this node does not have it. `endpoints`: by service
    what registered itself.
    """
    given = {} if assigned is None else assigned.given
    notes: list[Note] = []
    things = list(_admitted(file, applied, notes))
    services, gateways = list(file.services), list(file.gateways)
    services += [one for one in things if isinstance(one, Service)]
    gateways += [one for one in things if isinstance(one, Gateway)]
    services = [
        _placed(
            one, given.get(key_of(Kind.SERVICE, one.name)), one in file.services, file.pools, notes
        )
        for one in services
    ]
    gateways = [
        _placed_gateway(
            one, given.get(key_of(Kind.GATEWAY, one.name)), one in file.gateways, file, notes
        )
        for one in gateways
    ]
    services, gateways = _without_clashes(services, gateways, file.pools, notes)
    services = [_joined(one, endpoints.get(one.name, ())) for one in services]
    routes = [*file.routes, *(one for one in things if isinstance(one, Route))]
    ports = {
        one.name: {port.port for port in one.ports if port.protocol is Protocol.TCP}
        for one in services
    }
    config = replace(
        file,
        services=tuple(services),
        gateways=tuple(_leading_on(one, ports, notes) for one in gateways),
        routes=tuple(_leading(routes, ports, gateways, notes)),
    )
    return Merged(config, tuple(notes))


def _admitted(
    file: Config, applied: Mapping[str, Thing | Note], notes: list[Note]
) -> Iterator[Thing]:
    taken = {key_of(Kind.SERVICE, one.name) for one in file.services}
    taken |= {key_of(Kind.GATEWAY, one.name) for one in file.gateways}
    taken |= {key_of(Kind.ROUTE, one.name) for one in file.routes}
    for key, thing in sorted(applied.items()):
        if isinstance(thing, Note):
            notes.append(thing)
        elif key in taken:
            detail = "this node's file has one of that name, which counts here"
            notes.append(Note(key, CatalogReason.NAME_TAKEN, detail))
        else:
            yield thing


def _placed(
    service: Service,
    has: Assignment | None,
    in_file: bool,
    pools: Sequence[Pool],
    notes: list[Note],
) -> Service:
    """Give a service what it has; what this node's file says goes without a leader."""
    key, want = key_of(Kind.SERVICE, service.name), want_of_service(service)
    has = has or Assignment()
    notes.extend(Note(key, one.reason, f"{one.what}: {one.detail}") for one in has.refused)
    vips = _has(has.vips, service.vips if in_file else ()) if want.vip else ()
    inside = _has(has.cluster_ips, service.cluster_ips if in_file else ()) if want.inside else ()
    ports = tuple(
        replace(
            port,
            node_port=((port.node_port if in_file else None) or has.node_ports.get(port.name))
            if want.opens
            else None,
        )
        for port in service.ports
    )
    missing = (want.vip and not vips) or (want.opens and any(p.node_port is None for p in ports))
    if missing and not has.refused:
        notes.append(Note(key, CatalogReason.NOT_ASSIGNED_YET, "no leader has been heard to do so"))
    return replace(
        service,
        vips=_own(key, vips, pools, notes),
        cluster_ips=inside,
        ports=ports,
    )


def _placed_gateway(
    gateway: Gateway, has: Assignment | None, in_file: bool, file: Config, notes: list[Note]
) -> Gateway:
    key, has = key_of(Kind.GATEWAY, gateway.name), has or Assignment()
    notes.extend(Note(key, one.reason, f"{one.what}: {one.detail}") for one in has.refused)
    vips = _has(has.vips, gateway.vips if in_file else ())
    if not vips and not has.refused:
        notes.append(Note(key, CatalogReason.NOT_ASSIGNED_YET, "no leader has been heard to do so"))
    return replace(gateway, vips=_own(key, vips, file.pools, notes))


def _has(assigned: tuple[str, ...], in_file: tuple[str, ...]) -> tuple[str, ...]:
    """What is assigned, unless the file has since been changed to something else."""
    return assigned if set(in_file) <= set(assigned) else in_file


def _own(
    key: str, vips: tuple[str, ...], pools: Sequence[Pool], notes: list[Note]
) -> tuple[str, ...]:
    """Those that this node may own: its file names their pool."""
    mine = [pool for pool in pools if pool.type is PoolType.LOAD_BALANCER]
    fit = tuple(vip for vip in vips if is_loopback(vip) or any(p.holds(vip) for p in mine))
    notes.extend(
        Note(key, CatalogReason.NO_SUCH_POOL_HERE, f"{vip} is in no pool of this node's file")
        for vip in vips
        if vip not in fit
    )
    return fit


def _joined(service: Service, endpoints: Sequence[Backend]) -> Service:
    known = {backend.id for backend in service.backends}
    new = tuple(one for one in endpoints if one.id not in known)
    return replace(service, backends=service.backends + new) if new else service


def _without_clashes(
    services: list[Service], gateways: list[Gateway], pools: Sequence[Pool], notes: list[Note]
) -> tuple[list[Service], list[Gateway]]:
    """Leave out who would listen where another one does, or brings one VIP too many.

    Who is first in the lists stays: what is in the file.
    """
    seen: dict[tuple[str, int, str], str] = {}
    vips: set[str] = set()

    def fits(key: str, mine: Sequence[str], places: list[tuple[str, int, str]]) -> bool:
        taken = next((place for place in places if place in seen), None)
        if taken is not None:
            address, port, protocol = taken
            detail = f"{seen[taken]} has port {port}/{protocol} of {address} here"
            notes.append(Note(key, CatalogReason.PORT_TAKEN, detail))
            return False
        owned = set(mine) - routed(pools, mine)
        if len(vips | owned) >= MAX_KEYS:
            detail = f"a cluster has at most {MAX_KEYS - 1} VIPs"
            notes.append(Note(key, CatalogReason.TOO_MANY_VIPS, detail))
            return False
        vips.update(owned)
        seen.update(dict.fromkeys(places, key))
        return True

    fitting = [
        one for one in services if fits(key_of(Kind.SERVICE, one.name), one.vips, _places(one))
    ]
    fitting_gateways = [
        one
        for one in gateways
        if fits(
            key_of(Kind.GATEWAY, one.name),
            one.vips,
            [(vip, port, "tcp") for vip in one.vips for port in one.ports],
        )
    ]
    return fitting, fitting_gateways


def _places(service: Service) -> list[tuple[str, int, str]]:
    places = [
        (address, port.port, port.protocol.value)
        for address in (*service.vips, *service.cluster_ips)
        for port in service.ports
    ]
    places += [
        ("every node", port.node_port, port.protocol.value)
        for port in service.ports
        if port.node_port is not None
    ]
    return places


def _leading_on(
    gateway: Gateway, ports: Mapping[str, Collection[int]], notes: list[Note]
) -> Gateway:
    """Take a default backend that is not there away, as a route would be."""
    if gateway.default_backend is None:
        return gateway
    why = _why_not(gateway.default_backend, ports)
    if why is None:
        return gateway
    notes.append(Note(key_of(Kind.GATEWAY, gateway.name), CatalogReason.LEADS_NOWHERE, why))
    return replace(gateway, default_backend=None)


def _leading(
    routes: Sequence[Route],
    ports: Mapping[str, Collection[int]],
    gateways: Sequence[Gateway],
    notes: list[Note],
) -> Iterator[Route]:
    there = {one.name for one in gateways}
    for route in routes:
        whys = [_why_not(backend, ports) for backend in route.backends]
        missing = [why for why in whys if why is not None]
        # What is missing of several is a share that is answered with 500.
        leads = not missing or len(missing) < len(whys)
        if route.gateway not in there:
            leads, missing = False, [f'there is no gateway "{route.gateway}"']
        key = key_of(Kind.ROUTE, route.name)
        # Without a service that it asks first the route is there and answers 500: what it keeps
        # from everybody must not come to another route. Copies for nobody are left out.
        asked = [_why_not(one, ports) for one in route.filters.asked]
        missing += [why for why in asked if why is not None]
        notes += [Note(key, CatalogReason.LEADS_NOWHERE, why) for why in missing]
        if leads:
            yield route


def _why_not(backend: RouteBackend | Asked, ports: Mapping[str, Collection[int]]) -> str | None:
    """Why requests cannot go to a backend of a route."""
    name = backend.service
    if name not in ports:
        return f'there is no service "{name}"'
    if not ports[name]:
        return f'service "{name}" has no TCP port'
    if backend.port not in {None, *ports[name]}:
        return f'service "{name}" has no TCP port {backend.port}'
    return None
