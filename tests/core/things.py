"""Services, gateways and orders as tests of the catalog and of applying need them."""

from __future__ import annotations

from typing import Any

from piagent.core.applying import Change
from piagent.core.model import (
    AddressRange,
    Backend,
    Broker,
    Config,
    Election,
    Gateway,
    Mqtt,
    Node,
    PathKind,
    Pool,
    PoolType,
    Route,
    RouteBackend,
    Service,
    ServicePort,
    ServiceType,
    Timing,
)
from piagent.core.records import Kind

TIMING = Timing(
    lease_ms=1500, renew_ms=300, wait_ms=1550, guard_ms=100, attempt_ms=250, stagger_ms=40,
    lag_ms=500,
)  # fmt: skip
LAN = Pool(name="lan", addresses=(AddressRange(first="10.0.0.1", last="10.0.0.3"),))
INSIDE = Pool(
    name="inside",
    type=PoolType.CLUSTER,
    addresses=(AddressRange(first="10.96.0.1", last="10.96.0.9"),),
)


def service(name: str, type_: ServiceType = ServiceType.LOAD_BALANCER, **keys: Any) -> Service:
    ports = (ServicePort(name="http", port=80, target_port=8080),)
    fields = {"ports": ports, "backends": (Backend(address="192.0.2.1"),), **keys}
    return Service(name=name, type=type_, **fields)


def gateway(name: str, **keys: Any) -> Gateway:
    return Gateway(name=name, **{"ports": (8080,), **keys})


def route(name: str, gateway_: str, service_: str | None, port: int | None = None) -> Route:
    return Route(
        name=name,
        gateway=gateway_,
        hosts=(),
        path_kind=PathKind.PREFIX,
        path="/",
        backends=() if service_ is None else (RouteBackend(service=service_, port=port),),
    )


def config(
    *services: Service,
    gateways: tuple[Gateway, ...] = (),
    routes: tuple[Route, ...] = (),
    pools: tuple[Pool, ...] = (LAN, INSIDE),
) -> Config:
    return Config(
        node=Node(name="pi-1", interface="eth0"),
        cluster="home",
        secrets=(b"",),
        mqtt=Mqtt(brokers=(Broker(label="b1", host="127.0.0.1", port=1883),)),
        election=Election(profile="normal", timing=TIMING),
        admin_socket="/run/piagent/admin.sock",
        pools=pools,
        services=services,
        gateways=gateways,
        routes=routes,
    )


def change(name: str, kind: Kind = Kind.SERVICE, version: int | None = None, **keys: Any) -> Change:
    table = {"name": name, **TABLES[kind], **keys}
    return Change(kind=kind, name=name, table=table, version=version)


def deletion(name: str, kind: Kind = Kind.SERVICE, version: int | None = None) -> Change:
    return Change(kind=kind, name=name, version=version)


TABLES: dict[Kind, dict[str, Any]] = {
    Kind.SERVICE: {
        "type": "load-balancer",
        "ports": [{"port": 80}],
        "backends": ["192.0.2.1"],
    },
    Kind.GATEWAY: {"listen": [{"port": 8080}]},
    Kind.ROUTE: {"gateway": "front", "backends": [{"service": "web"}]},
}
