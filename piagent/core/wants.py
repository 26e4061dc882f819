"""What services and gateways ask for, as nodes tell each other: addresses, pools, node ports.

A node's file says what its services want; the leader, whose own file may not have them, gives. So
each node says all of it in one retained message.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from piagent.core.allocation_types import Request
from piagent.core.model import (
    Families,
    Gateway,
    Pool,
    PoolType,
    Protocol,
    Service,
    ServiceType,
    TrafficPolicy,
)
from piagent.core.node_ports import PortRequest
from piagent.core.records import Kind, key_of

_WITH_NODE_PORTS = {ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER}


class WantedPort(Struct, frozen=True, omit_defaults=True):
    """One port of a service or gateway."""

    name: str
    port: int
    protocol: Protocol = Protocol.TCP
    node_port: int | None = None


class Want(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"cluster_ips": "cluster", "sharing_key": "share", "first_family": "first"},
):
    """What one service or gateway asks for; keys at their defaults are not sent."""

    vip: bool = False
    """Whether it is to have a VIP."""
    inside: bool = False
    """Whether it may have a cluster address."""
    opens: bool = False
    """Whether it is to have node ports."""
    vips: tuple[str, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    pool: str | None = None
    sharing_key: str | None = None
    families: Families = Families.SINGLE
    first_family: int | None = None
    labels: dict[str, str] = {}
    ports: tuple[WantedPort, ...] = ()
    local: tuple[str, ...] | None = None
    """With `traffic_policy = "local"`: its backends."""


def want_of_service(service: Service) -> Want:
    """What a service asks for."""
    on_vip = service.type is ServiceType.LOAD_BALANCER
    local = service.traffic_policy is TrafficPolicy.LOCAL
    return Want(
        vip=on_vip,
        inside=service.type is not ServiceType.EXTERNAL and not service.headless,
        opens=service.type in _WITH_NODE_PORTS and (service.node_ports or not on_vip),
        vips=service.vips,
        cluster_ips=service.cluster_ips,
        pool=service.pool,
        sharing_key=service.sharing_key,
        families=service.families,
        first_family=service.first_family,
        labels=service.labels,
        ports=tuple(
            WantedPort(port.name, port.port, port.protocol, port.node_port)
            for port in service.ports
        ),
        local=tuple(sorted(one.id for one in service.backends)) if local else None,
    )


def want_of_gateway(gateway: Gateway) -> Want:
    """What a gateway asks for."""
    return Want(
        vip=True,
        vips=gateway.vips,
        pool=gateway.pool,
        sharing_key=gateway.sharing_key,
        families=gateway.families,
        first_family=gateway.first_family,
        labels=gateway.labels,
        ports=tuple(WantedPort(str(port), port) for port in gateway.ports),
    )


def wants_of(services: Iterable[Service], gateways: Iterable[Gateway]) -> dict[str, Want]:
    """What each of them asks for, which may be nothing."""
    found = {key_of(Kind.SERVICE, one.name): want_of_service(one) for one in services}
    return found | {key_of(Kind.GATEWAY, one.name): want_of_gateway(one) for one in gateways}


def vip_request(key: str, want: Want) -> Request | None:
    """What it asks of the load-balancer pools."""
    return _request(key, want, PoolType.LOAD_BALANCER) if want.vip else None


def cluster_request(key: str, want: Want, pools: Iterable[Pool]) -> Request | None:
    """What it asks of the cluster pools; without any, cluster addresses are not in use."""
    asked = want.cluster_ips or (want.pool is not None and not want.vip)
    offered = any(pool.type is PoolType.CLUSTER and pool.auto_assign for pool in pools)
    if not want.inside or not (asked or offered):
        return None
    return _request(key, want, PoolType.CLUSTER)


def port_requests(key: str, want: Want) -> list[PortRequest]:
    """The node ports that it asks for."""
    ports = want.ports if want.opens else ()
    return [
        PortRequest(service=key, name=one.name, protocol=one.protocol, number=one.node_port)
        for one in ports
    ]


def _request(key: str, want: Want, of: PoolType) -> Request:
    on_vip = of is PoolType.LOAD_BALANCER
    own = on_vip == want.vip  # the pool and the key are about its VIP, if it has one
    return Request(
        name=key,
        type=of,
        addresses=want.vips if on_vip else want.cluster_ips,
        pool=want.pool if own else None,
        families=want.families,
        first_family=want.first_family,
        sharing_key=want.sharing_key if own else None,
        ports=frozenset((one.protocol, one.port) for one in want.ports),
        labels=want.labels,
        local=want.local if on_vip else None,
    )
