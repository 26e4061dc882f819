"""What a node's file means: typed, checked, frozen values.

Units are in the names (`_ms` milliseconds, `_ns` nanoseconds). Addresses are canonical strings, as
`str(ipaddress.ip_address(...))` gives them, so that equal addresses are equal strings.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address

from msgspec import Struct


class Node(Struct, frozen=True, kw_only=True):
    """This host."""

    name: str
    interface: str | None
    """Where VIPs are configured; None when there is no default route to find one by."""
    vip_weight: int = 100
    """0: this node never owns a VIP."""
    workers: int = 1
    """Engine threads."""


class Broker(Struct, frozen=True, kw_only=True):
    """One MQTT broker: a sequencer of the lease protocol."""

    label: str
    """"b1", "b2", … by position in the file; the `b` of a lease message."""
    host: str
    port: int
    username: str | None = None


class Listen(Struct, frozen=True, kw_only=True):
    """An address and port of our own."""

    address: str
    port: int


class Mqtt(Struct, frozen=True, kw_only=True):
    """The brokers, and the one that this node may run itself."""

    brokers: tuple[Broker, ...]
    password: str | None = None
    embedded: Listen | None = None


class Timing(Struct, frozen=True, kw_only=True):
    """How long what takes in an election, in milliseconds (docs/reference/toml.md)."""

    lease_ms: int
    renew_ms: int
    wait_ms: int
    """W: lease * (1 + rho) + slack."""
    guard_ms: int
    attempt_ms: int
    stagger_ms: int
    lag_ms: int
    """lambda of R9."""


class Election(Struct, frozen=True, kw_only=True):
    """How VIPs find their owner."""

    profile: str
    timing: Timing
    candidates: tuple[str, ...] = ()
    """Node names in order of preference; empty: every node that names the VIP."""


class Announce(StrEnum):
    """How a pool's addresses are made known."""

    ARP = "arp"
    NONE = "none"


class AddressRange(Struct, frozen=True, kw_only=True):
    """Every address from first to last, both included, of one family."""

    first: str
    last: str

    def holds(self, address: str) -> bool:
        """Tell whether the address lies in the range."""
        first, one, last = map(ip_address, (self.first, address, self.last))
        return first.version == one.version and int(first) <= int(one) <= int(last)


class Pool(Struct, frozen=True, kw_only=True):
    """Addresses that services may use."""

    name: str
    addresses: tuple[AddressRange, ...]
    announce: Announce = Announce.ARP


class HealthKind(StrEnum):
    """What a health check does."""

    TCP = "tcp"
    HTTP = "http"


class HealthCheck(Struct, frozen=True, kw_only=True):
    """How the backends of a service are checked."""

    kind: HealthKind = HealthKind.TCP
    interval_ms: int = 2000
    timeout_ms: int = 1000
    rise: int = 2
    """Good results in a row that make a backend up."""
    fall: int = 3
    """Bad results in a row that make it down."""
    port: int | None = None
    """None: the target port of the service's first port."""
    path: str = "/"
    expect: tuple[int, ...] = ()
    """HTTP status codes that count as good; empty: 200 to 399."""


class Backend(Struct, frozen=True, kw_only=True):
    """Where a service's traffic goes."""

    address: str
    weight: int = 1
    """0: gets no new connection."""


class ServicePort(Struct, frozen=True, kw_only=True):
    """One port of a service."""

    name: str
    port: int
    target_port: int


class ServiceType(StrEnum):
    """Who can reach a service."""

    CLUSTER = "cluster"
    """No address of its own yet: used by routes."""
    LOAD_BALANCER = "load-balancer"
    """On a VIP that exactly one node owns."""


class Service(Struct, frozen=True, kw_only=True):
    """A named set of backends."""

    name: str
    type: ServiceType
    address: str | None
    """The VIP of a load-balancer service, None for the others."""
    ports: tuple[ServicePort, ...]
    backends: tuple[Backend, ...]
    health: HealthCheck | None = None
    """None: backends count as up."""


class Wildcard(StrEnum):
    """What `*` in a route's host stands for."""

    ONE_LABEL = "one-label"
    ANY_DEPTH = "any-depth"


class Gateway(Struct, frozen=True, kw_only=True):
    """An HTTP entry point on a VIP."""

    name: str
    address: str
    ports: tuple[int, ...]
    wildcard: Wildcard = Wildcard.ONE_LABEL


class PathKind(StrEnum):
    """How a route compares the path."""

    EXACT = "exact"
    PREFIX = "prefix"


class Route(Struct, frozen=True, kw_only=True):
    """Which requests of a gateway go to which service."""

    name: str
    gateway: str
    hosts: tuple[str, ...]
    """Lower case, exact or `*.suffix`; empty: any host."""
    path_kind: PathKind
    path: str
    """Canonical (docs/reference/http.md)."""
    service: str | None
    """None: the route has no backend and answers 500."""
    service_port: int | None = None
    """A `port` of the service; None: its first."""
    request_timeout_ms: int = 0
    """For the whole exchange; 0: none."""
    backend_timeout_ms: int = 60_000
    """From the request sent to the response's head; 0: none."""


class Config(Struct, frozen=True, kw_only=True):
    """One node's file."""

    node: Node
    cluster: str
    secret: bytes
    """Authenticates every message; empty only with brokers on 127.0.0.0/8."""
    mqtt: Mqtt
    election: Election
    admin_socket: str
    pools: tuple[Pool, ...] = ()
    services: tuple[Service, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    routes: tuple[Route, ...] = ()

    def vips(self) -> tuple[str, ...]:
        """Every VIP that this node may own, each once, sorted."""
        used = {s.address for s in self.services if s.address is not None}
        return tuple(sorted(used | {g.address for g in self.gateways}))
