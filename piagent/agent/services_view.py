"""Services as the admin API shows them, and what it has done about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_interface
from time import monotonic
from typing import Any

from msgspec.structs import replace

from piagent.adapters.clock import wall_ms
from piagent.admin.status import (
    AppliedStatus,
    BackendStatus,
    DrainStatus,
    EndpointStatus,
    GatewayStatus,
    NoteStatus,
    PoolCount,
    PoolStatus,
    PortStatus,
    RegisterEndpoint,
    RemoveEndpoint,
    RoutedStatus,
    ServiceStatus,
    SessionStatus,
    WhyService,
)
from piagent.agent.access_log import AccessLog
from piagent.agent.endpoints import EndpointError
from piagent.agent.followers import Followers
from piagent.agent.health import HealthLoop
from piagent.agent.services import Services
from piagent.agent.serving import Serving
from piagent.core.applying import Order, Verdict
from piagent.core.assignments import Applied, Assignment
from piagent.core.bgp import Announcement
from piagent.core.bulletin import TTL_MAX_MS, Endpoint
from piagent.core.catalog import CatalogReason, Merged
from piagent.core.forwarding import Forwarding
from piagent.core.identity import once
from piagent.core.model import Backend, Gateway, Service, ServiceType, host_port
from piagent.core.plan import places_of, unreached
from piagent.core.records import Kind, key_of
from piagent.core.route_reasons import shadows
from piagent.core.routing import DEFAULT, PlannedGateway

COUNT_MAX = 2**53
"""Beyond it JSON numbers are not exact everywhere (RFC 8259 section 6)."""
TTL_MIN_MS = 1000


def _hidden(gateways: tuple[PlannedGateway, ...]) -> tuple[NoteStatus, ...]:
    """The routes that no request can reach."""
    return tuple(
        NoteStatus(
            about=key_of(Kind.GATEWAY, gateway.name)
            if shadow.route == DEFAULT
            else key_of(Kind.ROUTE, shadow.route),
            reason=CatalogReason.NEVER_TAKEN,
            detail=f"{shadow.by} takes all its requests for {shadow.host or 'any host'}",
        )
        for gateway in gateways
        for shadow in shadows(gateway.routes)
    )


_hidden_once = once(_hidden, kept=2)


class ServicesView:
    """Answers `piagent.admin.services.ServiceSource`."""

    def __init__(
        self,
        *,
        services: Services,
        serving: Serving,
        health: HealthLoop,
        followers: Followers,
        access_log: AccessLog,
        counted: Callable[[], Mapping[str, Any]],
        merged: Callable[[], Merged],
        networks: Callable[[], tuple[str, ...]],
        owners: Callable[[], Mapping[str, str]],
        started_ms: int,
    ) -> None:
        """What it tells from.

        `networks`: this host's addresses with their prefix. `owners`: VIP -> node. `counted`: what
        the engine counts, by service port and backend.
        """
        self._services = services
        self._serving = serving
        self._health = health
        self._followers = followers
        self._access_log = access_log
        self._counted = counted
        self._merged = merged
        self._networks = networks
        self._owners = owners
        self._started_ms = started_ms

    # ---- orders -------------------------------------------------------------------------------

    async def apply(self, order: Order) -> Verdict:
        """Have the leader do it."""
        return await self._services.orders.submit(order)

    def register(self, asked: RegisterEndpoint) -> EndpointStatus | str:
        """Have an endpoint, or why not."""
        services = {one.name: one for one in self._serving.config.services}
        service = services.get(asked.service)
        if service is None or service.type is ServiceType.EXTERNAL:
            known = ", ".join(sorted(services)) or "none"
            return f"there is no service {asked.service!r} that has backends (there are: {known})"
        ports = [port.name for port in service.ports]
        if asked.only is not None and asked.only not in ports:
            return f"service {asked.service} has no port {asked.only!r}: {', '.join(ports)}"
        if asked.only is None and len(ports) > 1:
            return f"service {asked.service} has several ports, name one: {', '.join(ports)}"
        if not TTL_MIN_MS <= asked.ttl_ms <= TTL_MAX_MS:
            return f"a ttl is between {TTL_MIN_MS} and {TTL_MAX_MS} ms"
        if not (1 <= asked.port <= 65535 and 0 <= asked.weight <= 1000):
            return "a port is between 1 and 65535, a weight between 0 and 1000"
        address = self._address(asked.address)
        if address is None:
            return f"{asked.address!r} is not the address of a host" if asked.address else (
                "this node does not know an address of its own that others reach: name one"
            )  # fmt: skip
        endpoint = Endpoint(
            service=asked.service,
            address=address,
            port=asked.port,
            only=asked.only,
            weight=asked.weight,
            left_ms=asked.ttl_ms,
        )
        try:
            self._services.endpoints.register(endpoint)
        except EndpointError as error:
            return str(error)
        return EndpointStatus(
            node=self._serving.config.node.name,
            service=asked.service,
            address=host_port(address, asked.port),
        )

    def remove(self, asked: RemoveEndpoint) -> bool:
        """Have it no more; whether it was there."""
        address = self._address(asked.address) or ""
        return self._services.endpoints.remove(asked.service, address, asked.port)

    def _address(self, asked: str) -> str | None:
        """The one that was asked for, or the first one of this host that others reach."""
        try:
            if asked:
                found = ip_address(asked)
                return None if found.is_unspecified or found.is_multicast else str(found)
        except ValueError:
            return None
        own = (ip_interface(one).ip for one in self._networks())
        return next((str(one) for one in own if not one.is_link_local), None)

    # ---- what there is ------------------------------------------------------------------------

    def applied(self) -> tuple[AppliedStatus, ...]:
        """What was applied and is in force."""
        registry = self._services.registry
        said, records = registry.assignments(), registry.records()
        given = {} if said is None else said.given
        found = []
        for key, applied in sorted(registry.applied().items()):
            kind, _, name = key.partition("/")
            has = given.get(key, Assignment())
            found.append(
                AppliedStatus(
                    kind=kind,
                    name=name,
                    version=applied.version,
                    table=records[key].table if key in records else {},
                    vips=has.vips,
                    cluster_ips=has.cluster_ips,
                    node_ports=has.node_ports,
                )
            )
        return tuple(found)

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """What registered itself, at any node."""
        return tuple(
            EndpointStatus(node=backend.node or "", service=service, address=backend.id)
            for service, backends in sorted(self._services.endpoints.backends().items())
            for backend in backends
        )

    def pools(self) -> tuple[PoolStatus, ...]:
        """The pools with what they have left."""
        office = self._services.office
        counts = office.look().pools
        return tuple(
            PoolStatus(
                name=pool.name,
                type=pool.type,
                addresses=tuple(f"{span.first}-{span.last}" for span in pool.addresses),
                disabled=pool.disabled,
                counts=tuple(
                    PoolCount(
                        family=family,
                        total=min(count.total, COUNT_MAX),
                        used=min(count.used, COUNT_MAX),
                        free=min(count.free, COUNT_MAX),
                    )
                    for family, count in sorted(counts.get(pool.name, {}).items())
                ),
            )
            for pool in office.pools()
        )

    def services(self) -> tuple[ServiceStatus, ...]:
        """Each with its backends."""
        applied, ejected = self._services.registry.applied(), self._ejected()
        return tuple(
            ServiceStatus(
                name=service.name,
                type=service.type,
                vips=service.vips,
                cluster_ips=service.cluster_ips,
                ports=_ports(service),
                backends=self._backends(service, ejected),
                applied=self._version(key_of(Kind.SERVICE, service.name), applied),
                mode=service.forwarding.mode,
                encapsulation=service.forwarding.encapsulation,
            )
            for service in self._serving.config.services
        )

    def gateways(self) -> tuple[GatewayStatus, ...]:
        """The HTTP entry points."""
        applied = self._services.registry.applied()
        return tuple(
            GatewayStatus(
                name=gateway.name,
                vips=gateway.vips,
                ports=gateway.ports,
                applied=self._version(key_of(Kind.GATEWAY, gateway.name), applied),
            )
            for gateway in self._serving.config.gateways
        )

    def notes(self) -> tuple[NoteStatus, ...]:
        """What is not as it was wished."""
        return tuple(self._notes())

    def drains(self) -> tuple[DrainStatus, ...]:
        """The backends that get no more connections."""
        counted, late_ms = self._counted(), wall_ms() - self._serving.now_ms()
        return tuple(
            DrainStatus(
                service=service,
                backend=backend,
                connections=counted.get(service, {}).get(backend, {}).get("active", 0),
                until=drain.due_ms + late_ms,
            )
            for (service, backend), drain in sorted(self._serving.drains.items())
        )

    def routed(self) -> tuple[RoutedStatus, ...]:
        """The VIPs that BGP leads to."""
        return tuple(
            RoutedStatus(address=vip, announced=why is Announcement.ANNOUNCED, reason=why)
            for vip, why in self._followers.announcements().items()
        )

    def sessions(self) -> tuple[SessionStatus, ...]:
        """The sessions with routers."""
        return tuple(
            SessionStatus(peer=one.peer, up=one.up, reason=one.reason)
            for _, one in sorted(self._followers.sessions.items())
        )

    def why(self, name: str) -> WhyService | None:
        """Why a service or gateway has what it has; None: there is none of that name."""
        config = self._serving.config
        holders: list[Service | Gateway] = [*config.services, *config.gateways]
        named = [one for one in holders if one.name == name]
        keys = (
            [_key(named[0])] if named else [key_of(Kind.SERVICE, name), key_of(Kind.GATEWAY, name)]
        )
        notes = tuple(one for one in self._notes() if one.about in keys)
        if not named and not notes:
            return None
        holder = named[0] if named else None
        service = holder if isinstance(holder, Service) else None
        registry = self._services.registry
        said = registry.assignments()
        key = keys[0] if holder is not None else notes[0].about
        has = Assignment() if said is None else said.given.get(key, Assignment())
        owners = self._owners()
        vips = holder.vips if holder is not None else ()
        how = service.forwarding if service is not None else Forwarding()
        return WhyService(
            name=name,
            kind=key.partition("/")[0],
            applied=self._version(key, registry.applied()),
            vips=vips,
            cluster_ips=service.cluster_ips if service else (),
            ports=_ports(service) if service else (),
            pool=has.pool,
            given=has.why or "",
            owners={vip: owners.get(vip) for vip in vips},
            notes=notes,
            backends=self._backends(service, self._ejected()) if service else (),
            mode=how.mode,
            encapsulation=how.encapsulation,
        )

    def _version(self, key: str, applied: Mapping[str, Applied]) -> int:
        found = applied.get(key)
        in_file = key in self._services.registry.own_wants()
        return 0 if found is None or in_file else found.version

    def _notes(self) -> Iterator[NoteStatus]:
        for note in self._merged().notes:
            yield NoteStatus(about=note.key, reason=note.reason, detail=note.detail)
        for (address, port, udp), why in sorted(self._serving.left_out.items()):
            about = host_port(address, port) + ("/udp" if udp else "")
            yield NoteStatus(about=about, reason=CatalogReason.PORT_UNAVAILABLE, detail=why)
        for name, backend in unreached(self._serving.config):
            about, reason = key_of(Kind.SERVICE, name), CatalogReason.BACKEND_UNREACHED
            detail = f"{backend} gets nothing of what comes to its VIP: another IP version or port"
            yield NoteStatus(about=about, reason=reason, detail=detail)
        for address, why in sorted(self._followers.missing.items()):
            yield NoteStatus(about=address, reason=CatalogReason.ADDRESS_UNAVAILABLE, detail=why)
        for path, why in self._access_log.troubles().items():
            about = f"access log {path}"
            yield NoteStatus(about=about, reason=CatalogReason.LOG_UNWRITABLE, detail=why)
        if self._serving.plan is not None:
            yield from _hidden_once(self._serving.plan.gateways)
        responder = self._followers.responder
        if responder is not None and responder.why_not is not None:
            reason = CatalogReason.PORT_UNAVAILABLE
            yield NoteStatus(about="dns", reason=reason, detail=responder.why_not)

    def _ejected(self) -> frozenset[tuple[str, str]]:
        """Service port and backend, as the plan names them."""
        return frozenset(
            (service, backend)
            for service, backends in self._counted().items()
            for backend, counted in backends.items()
            if counted["ejected"]
        )

    def _backends(
        self, service: Service, ejected: frozenset[tuple[str, str]]
    ) -> tuple[BackendStatus, ...]:
        return tuple(
            replace(self._backend(service, one), ejected=bool(ejected & places_of(service, one)))
            for one in service.backends
        )

    def _backend(self, service: Service, backend: Backend) -> BackendStatus:
        target = self._health.target(service.name, backend.id)
        if target is None:
            return BackendStatus(
                address=backend.id,
                weight=backend.weight,
                up=True,
                since=self._started_ms,
                reason="not checked: the service has no health check",
            )
        health = target.health
        return BackendStatus(
            address=backend.id,
            weight=backend.weight,
            up=health.usable,
            since=target.since_ms,
            reason=f"{health.reason}: {health.detail}" if health.detail else health.reason,
            checked_by=target.checked_by,
            checked=(
                None
                if target.checked_by is None
                else wall_ms() - int((monotonic() - target.checked_s) * 1000)
            ),
        )


def _key(holder: Service | Gateway) -> str:
    return key_of(Kind.SERVICE if isinstance(holder, Service) else Kind.GATEWAY, holder.name)


def _ports(service: Service) -> tuple[PortStatus, ...]:
    return tuple(
        PortStatus(name=port.name, port=port.port, protocol=port.protocol, node_port=port.node_port)
        for port in service.ports
    )
