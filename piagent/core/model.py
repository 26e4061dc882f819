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
    zone: str = ""
    """Failure domain; empty: one of its own."""
    labels: dict[str, str] = {}
    wired_only: bool = False
    """Own no VIP while the interface is a wireless one."""


class Broker(Struct, frozen=True, kw_only=True):
    """One MQTT broker: a sequencer of the lease protocol."""

    label: str
    """"b1", "b2", … by position in the file; the `b` of a lease message."""
    host: str
    port: int
    username: str | None = None
    tls: bool = False


class Listen(Struct, frozen=True, kw_only=True):
    """An address and port of our own."""

    address: str
    port: int


class Mqtt(Struct, frozen=True, kw_only=True):
    """The brokers, and the one that this node may run itself."""

    brokers: tuple[Broker, ...]
    password: str | None = None
    ca_file: str | None = None
    """PEM file of the authorities that brokers' certificates are checked by; None: the host's."""
    cert_file: str | None = None
    """PEM file of this node's own certificate, shown to brokers."""
    key_file: str | None = None
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


class QuorumLoss(StrEnum):
    """What an owner does when it reaches no majority of the brokers any more."""

    RELEASE = "release"
    HOLD = "hold"
    """Keep what it owns while its link is up and nobody else answers: safe unless L2 splits."""


class Election(Struct, frozen=True, kw_only=True):
    """How VIPs find their owner."""

    profile: str
    timing: Timing
    candidates: tuple[str, ...] = ()
    """Node names in order of preference; empty: every node that names the VIP."""
    on_quorum_loss: QuorumLoss = QuorumLoss.RELEASE
    preempt_ms: int | None = None
    """A preferred node that has been well for so long gets its VIPs back; None: never."""
    rebalance_ms: int | None = 30_000
    """An owner of more than its share hands the rest over when membership has been quiet for so
    long; None: never."""
    drain_ms: int = 10_000
    """How long connections through a former owner may live on after a planned move."""


class Announce(StrEnum):
    """How a pool's addresses are made known."""

    ARP = "arp"
    NONE = "none"


class Conflict(StrEnum):
    """What an owner does when another host uses its VIP (RFC 5227 section 2.4)."""

    YIELD = "yield"
    """Give the VIP up."""
    DEFEND = "defend"
    """Announce it again, at most once in ten seconds."""


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
    nodes: dict[str, str] = {}
    """Only nodes with all these labels may own its addresses."""
    interfaces: tuple[str, ...] = ()
    """Only nodes whose interface is one of these may; empty: any."""
    conflict: Conflict = Conflict.YIELD


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
    node: str | None = None
    """The node that it runs on, for `traffic_policy = "local"`."""


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


class TrafficPolicy(StrEnum):
    """Which backends an owner sends connections to."""

    CLUSTER = "cluster"
    LOCAL = "local"
    """Only those on the owning node; only nodes with one that is up may own the VIP."""


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
    traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER


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
    secrets: tuple[bytes, ...]
    """Authenticate every message: the first one signs, each of them is accepted (rotation in three
    steps). A single empty one only with brokers on 127.0.0.0/8."""
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
