"""A checked file -> `core.model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.config.election import timing
from piagent.config.entry import build_entry
from piagent.config.filters import build_edits, build_filters, edits_of
from piagent.config.health import build_health
from piagent.config.key_files import resolve
from piagent.config.proxying import build_proxying
from piagent.config.values import Eligible
from piagent.core import model
from piagent.core.filters import ErrorPage, Users
from piagent.core.forwarding import Forwarding
from piagent.core.predicates import Predicate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from piagent.config import schema
    from piagent.config.host import Host

STATE_FILE: Final = "state.json"


def build(
    file: schema.File,
    host: Host,
    *,
    folder: Path,
    socket: Path,
    secrets: tuple[bytes, ...],
    mqtt: model.Mqtt,
    token: str | None,
    bgp: model.Bgp | None,
    pages: dict[str, tuple[ErrorPage, ...]],
    users: dict[str, Users],
) -> model.Config:
    """Put the model together; `file` has no problems, `folder` is what paths are relative to.

    What follows `socket` comes from the files that it names: `pages` and `users` by their route.
    """
    return model.Config(
        node=model.Node(
            name=file.node.name or host.name,
            interface=file.node.interface or host.interface,
            vip_weight=file.node.vip_weight,
            workers=file.node.workers or host.cpus,
            zone=file.node.zone or "",
            labels=file.node.labels,
            state_file=_state_file(file.node.state_file, host, folder),
            flow_cache=file.node.flow_cache,
            wired_only=file.node.vip_eligible is Eligible.WIRED_ONLY,
        ),
        cluster=file.cluster.name,
        secrets=secrets,
        mqtt=mqtt,
        election=model.Election(
            profile=file.election.profile,
            timing=timing(file.election),
            candidates=file.election.candidates,
            on_quorum_loss=file.election.on_quorum_loss,
            preempt_ms=file.election.preempt,
            rebalance_ms=file.election.rebalance,
            drain_ms=file.election.drain,
        ),
        admin_socket=str(socket),
        admin_listen=file.admin.listen,
        admin_token=token,
        dns=file.dns.listen if file.dns else None,
        bgp=bgp,
        pools=tuple(
            model.Pool(
                name=pool.name,
                addresses=tuple(filter(None, pool.addresses)),
                announce=pool.announce,
                nodes=pool.nodes,
                interfaces=pool.interfaces,
                conflict=pool.conflict,
                type=pool.type,
                auto_assign=pool.auto_assign,
                avoid_buggy_ips=pool.avoid_buggy_ips,
                priority=pool.priority,
                disabled=pool.disabled,
                services=pool.services,
                communities=pool.communities,
                local_pref=pool.local_pref,
                peers=pool.peers,
            )
            for pool in file.pool
        ),
        services=tuple(build_service(service, folder) for service in file.service),
        gateways=tuple(build_gateway(gateway, folder) for gateway in file.gateway),
        routes=_routes(file, pages, users),
    )


def _state_file(name: str | None, host: Host, folder: Path) -> str | None:
    if name is not None:
        return str(resolve(name, folder))
    return None if host.state_directory is None else f"{host.state_directory}/{STATE_FILE}"


def build_gateway(gateway: schema.Gateway, folder: Path | None = None) -> model.Gateway:
    """One gateway; `folder`: as for a service."""
    return model.Gateway(
        name=gateway.name,
        vips=gateway.address,
        pool=gateway.pool,
        sharing_key=gateway.sharing_key,
        families=gateway.ip_family_policy,
        first_family=_first_family(gateway),
        labels=gateway.labels,
        ports=tuple(one.port for one in gateway.listen),
        wildcard=gateway.wildcard,
        hosts={one.port: one.hosts for one in gateway.listen if one.hosts},
        default_backend=_default_backend(gateway.default_backend),
        merge_slashes=gateway.merge_slashes,
        encoded_slash=gateway.encoded_slash,
        entry=build_entry(gateway, folder),
    )


def _default_backend(backend: schema.DefaultBackend | None) -> model.RouteBackend | None:
    if backend is None:
        return None
    return model.RouteBackend(service=backend.service, port=backend.port)


def build_service(service: schema.Service, folder: Path | None = None) -> model.Service:
    """One service; `folder`: what paths are relative to, None: there are none."""
    on_vip = service.type is model.ServiceType.LOAD_BALANCER
    return model.Service(
        name=service.name,
        type=service.type,
        vips=service.address if on_vip else (),
        cluster_ips=() if on_vip else service.address,
        pool=service.pool,
        sharing_key=service.sharing_key,
        families=service.ip_family_policy,
        first_family=_first_family(service),
        labels=service.labels,
        headless=service.headless,
        node_ports=service.node_ports,
        external_name=service.external_name,
        ports=tuple(
            model.ServicePort(
                name=port.name or port_name(port),
                port=port.port,
                target_port=port.target_port or port.port,
                protocol=port.protocol,
                node_port=port.node_port,
            )
            for port in service.ports
        ),
        backends=tuple(
            model.Backend(address=backend.address, weight=backend.weight, node=backend.node)
            for backend in service.backends
        ),
        health=build_health(service.health) if service.health else None,
        traffic_policy=service.traffic_policy,
        forwarding=Forwarding(service.mode, service.encapsulation),
        proxying=build_proxying(service, folder),
    )


def port_name(port: schema.ServicePort) -> str:
    """What a port is called that has no name: `80`, `53-udp`."""
    return str(port.port) + ("-udp" if port.protocol is model.Protocol.UDP else "")


def _first_family(table: schema.Service | schema.Gateway) -> int | None:
    return int(table.ip_families[0][-1]) if table.ip_families else None


def _routes(
    file: schema.File, pages: dict[str, tuple[ErrorPage, ...]], users: dict[str, Users]
) -> tuple[model.Route, ...]:
    return tuple(
        build_route(route, pages.get(route.name, ()), users.get(route.name)) for route in file.route
    )


def build_route(
    route: schema.Route, pages: tuple[ErrorPage, ...] = (), users: Users | None = None
) -> model.Route:
    """One route; `pages` and `users`: what was read from the files that it names."""
    path_kind, path = _path(route)
    return model.Route(
        name=route.name,
        gateway=route.gateway,
        hosts=route.hosts,
        path_kind=path_kind,
        path=path,
        backends=tuple(
            model.RouteBackend(
                service=one.service,
                port=one.port,
                weight=one.weight,
                request_headers=build_edits(edits_of(one.filters, "request_headers")),
                response_headers=build_edits(edits_of(one.filters, "response_headers")),
            )
            for one in route.backends
        ),
        request_timeout_ms=route.timeouts.request,
        backend_timeout_ms=route.timeouts.backend,
        retries=None if route.retries is None else _retries(route.retries),
        sticky=None
        if route.sticky is None
        else model.Sticky(cookie=route.sticky.cookie, ttl_ms=route.sticky.ttl),
        hash_on=route.hash_on,
        methods=route.methods,
        headers=_predicates(route.headers),
        query=_predicates(route.query),
        filters=build_filters(route, pages, users),
    )


def _path(route: schema.Route) -> tuple[model.PathKind, str]:
    if route.path_regex is not None:
        return model.PathKind.REGEX, route.path_regex
    if route.path_exact is not None:
        return model.PathKind.EXACT, route.path_exact
    return model.PathKind.PREFIX, route.path_prefix or "/"


def _predicates(
    wanted: Mapping[str, schema.HeaderMatch | schema.QueryMatch],
) -> tuple[Predicate, ...]:
    """Sort them by name, so that what asks for the same is the same."""
    return tuple(
        Predicate(name, one.exact or "")
        if one.regex is None
        else Predicate(name, one.regex, regex=True)
        for name, one in sorted(wanted.items())
    )


def _retries(retries: schema.Retries) -> model.Retries:
    return model.Retries(
        attempts=retries.attempts,
        on=tuple(one for one in retries.on if isinstance(one, model.RetryOn)),
        statuses=tuple(one for one in retries.on if isinstance(one, int)),
        backoff_ms=retries.backoff,
    )
