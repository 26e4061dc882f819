"""Zones to ask about names, made of a few services."""

from __future__ import annotations

from piagent.core.model import (
    Backend,
    Config,
    Election,
    Gateway,
    Mqtt,
    Node,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
    Timing,
)
from piagent.core.names import Zone

HTTP = ServicePort(name="http", port=80, target_port=8080)
DNS_UDP = ServicePort(name="dns", port=53, target_port=5353, protocol=Protocol.UDP)


def service(name: str, **changes: object) -> Service:
    """A service with one TCP port; what it has is in `changes`."""
    fields = {"type": ServiceType.CLUSTER, "ports": (HTTP,), "backends": (), **changes}
    return Service(name=name, **fields)  # type: ignore[arg-type]


def headless(name: str, *backends: Backend, ports: tuple[ServicePort, ...] = (HTTP,)) -> Service:
    return service(name, headless=True, backends=backends, ports=ports)


def external(name: str, target: str) -> Service:
    return service(name, type=ServiceType.EXTERNAL, ports=(), external_name=target)


def zone(*services: Service, gateways: tuple[Gateway, ...] = (), cluster: str = "home") -> Zone:
    timing = Timing(lease_ms=1, renew_ms=1, wait_ms=1, guard_ms=1, attempt_ms=1,
                    stagger_ms=1, lag_ms=1)  # fmt: skip
    return Zone(
        Config(
            node=Node(name="pi", interface=None),
            cluster=cluster,
            secrets=(b"",),
            mqtt=Mqtt(brokers=()),
            election=Election(profile="normal", timing=timing),
            admin_socket="/a",
            services=services,
            gateways=gateways,
        )
    )
