"""What a node's file means: typed, checked, frozen values.

Units are in the names (`_ms` milliseconds, `_ns` nanoseconds). Addresses are canonical strings, as
`str(ipaddress.ip_address(...))` gives them, so that equal addresses are equal strings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from piagent.core.entry import Entry
from piagent.core.filters import Filters, HeaderEdits
from piagent.core.forwarding import FlowCache, Forwarding
from piagent.core.predicates import Predicate
from piagent.core.proxying import Proxying

NODE_PORTS: Final = range(30000, 32768)
"""What node ports are given from, as in Kubernetes."""


def host_port(address: str, port: int) -> str:
    """Write an address and port as one word: `10.0.0.1:80`, `[fd00::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


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
    state_file: str | None = None
    """Where what is applied and assigned outlives the agent; None: nowhere."""
    flow_cache: FlowCache = FlowCache.AUTO

    def has_labels(self, wanted: dict[str, str]) -> bool:
        """Tell whether it has all of these."""
        return all(self.labels.get(name) == value for name, value in wanted.items())


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
    BGP = "bgp"
    """By every node that may serve them, to its routers: no node owns them alone."""


class PoolType(StrEnum):
    """Whose addresses a pool has."""

    LOAD_BALANCER = "load-balancer"
    """VIPs, of load-balancer services and gateways."""
    CLUSTER = "cluster"
    """Cluster addresses: reachable from the nodes, and from nowhere else."""


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
    """In the order in which they are given out."""
    type: PoolType = PoolType.LOAD_BALANCER
    auto_assign: bool = True
    """Whether services that name neither an address nor a pool get one from here."""
    avoid_buggy_ips: bool = False
    """Give out no IPv4 address that ends in .0 or .255."""
    priority: int = 0
    """Lower comes first; 0 is last. Equal ones by name."""
    disabled: bool = False
    """Keeps the addresses that are in use, and gives out no more."""
    services: dict[str, str] = {}
    """Only services with all these labels get its addresses."""
    announce: Announce = Announce.ARP
    nodes: dict[str, str] = {}
    """Only nodes with all these labels may own its addresses."""
    interfaces: tuple[str, ...] = ()
    """Only nodes whose interface is one of these may; empty: any."""
    conflict: Conflict = Conflict.YIELD
    communities: tuple[str, ...] = ()
    """Of its routes, in numbers: `64512:100` (RFC 1997) or `64512:1:2` (RFC 8092)."""
    local_pref: int | None = None
    """LOCAL_PREF of its routes, to routers of this node's own AS."""
    peers: tuple[str, ...] = ()
    """Names of the routers that its routes go to; empty: all."""

    def holds(self, address: str) -> bool:
        """Tell whether an address is one of the pool's."""
        return any(span.holds(address) for span in self.addresses)


class BgpPeer(Struct, frozen=True, kw_only=True):
    """A router that VIPs are announced to (RFC 4271)."""

    name: str
    address: str
    asn: int
    hold_s: int
    """The Hold Time that is proposed; the session has the lower of both sides'. 0: none."""
    port: int = 179
    password: str | None = None
    """Of TCP-MD5 (RFC 2385)."""
    source_address: str | None = None
    """This node's end of the session; None: the address that routing gives."""
    multihop: int | None = None
    """TTL of what is sent; None: 1 to another AS, the kernel's own within one."""
    nodes: dict[str, str] = {}
    """Only nodes with all these labels have a session with it."""


class Bgp(Struct, frozen=True, kw_only=True):
    """How this node speaks BGP."""

    asn: int
    router_id: str
    """Written as an IPv4 address, and another one on every node."""
    peers: tuple[BgpPeer, ...]
    next_hops: tuple[str, ...] = ()
    """Where routers are to send to, at most one of each IP version; where there is none, it is
    this node's end of the session."""


class HealthKind(StrEnum):
    """What a health check does."""

    TCP = "tcp"
    HTTP = "http"
    EXEC = "exec"
    """Run a program of the user's own."""


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
    """None: see `checked_port`."""
    path: str = "/"
    expect: tuple[int, ...] = ()
    """HTTP status codes that count as good; empty: 200 to 399."""
    command: tuple[str, ...] = ()
    """The program, by its whole path, and its arguments."""
    shared: bool = True
    """Whether one node's verdict is good enough for all."""


class Backend(Struct, frozen=True, kw_only=True):
    """Where a service's traffic goes."""

    address: str
    weight: int = 1
    """0: gets no new connection."""
    node: str | None = None
    """The node that it runs on, for `traffic_policy = "local"`."""
    port: int | None = None
    """Instead of the service's target port: an endpoint that registered itself brings its own."""
    only: str | None = None
    """The name of the one service port that it serves; None: all of them."""

    @property
    def id(self) -> str:
        """Its name within the service: the address, with the port when it has its own."""
        return self.address if self.port is None else host_port(self.address, self.port)


class Protocol(StrEnum):
    """What a service port carries."""

    TCP = "tcp"
    UDP = "udp"


class ServicePort(Struct, frozen=True, kw_only=True):
    """One port of a service."""

    name: str
    port: int
    target_port: int
    protocol: Protocol = Protocol.TCP
    node_port: int | None = None
    """On every node's own addresses; None: none, or not assigned yet."""


class ServiceType(StrEnum):
    """Who can reach a service."""

    CLUSTER = "cluster"
    """The nodes of the cluster, on an address that each of them has."""
    NODE_PORT = "node-port"
    """Whoever reaches a node, on the same port of each."""
    LOAD_BALANCER = "load-balancer"
    """The same, and whoever reaches its VIP, which exactly one node owns."""
    EXTERNAL = "external"
    """It is elsewhere: a name that stands for another name."""


class TrafficPolicy(StrEnum):
    """Which backends traffic from outside the cluster goes to."""

    CLUSTER = "cluster"
    LOCAL = "local"
    """Only those on the node that it came to; only nodes with one that is up may own the VIP."""


class Families(StrEnum):
    """Of which IP versions a service gets addresses (Kubernetes: ipFamilyPolicy)."""

    SINGLE = "single"
    PREFER_DUAL = "prefer-dual"
    """One of each from one pool, or one when there is no pool with both free."""
    REQUIRE_DUAL = "require-dual"


class Service(Struct, frozen=True, kw_only=True):
    """A named set of backends.

    `vips`, `cluster_ips` and the ports' `node_port` are what the file asks for or, in a
    configuration that is served, what the service has.
    """

    name: str
    type: ServiceType
    ports: tuple[ServicePort, ...]
    backends: tuple[Backend, ...]
    vips: tuple[str, ...] = ()
    """At most one of each IP version."""
    cluster_ips: tuple[str, ...] = ()
    """The same, on the loopback interface of every node."""
    pool: str | None = None
    """Where its address is to come from; None: any pool with auto_assign."""
    sharing_key: str | None = None
    """Services with one key may share a VIP on different ports."""
    families: Families = Families.SINGLE
    first_family: int | None = None
    """4 or 6: the IP version of a single address; None: what there is, IPv4 first."""
    labels: dict[str, str] = {}
    """For pools that are for some services only."""
    headless: bool = False
    """It has no cluster address: its name leads to its backends."""
    node_ports: bool = True
    """Whether a load-balancer service has node ports, too."""
    external_name: str | None = None
    """What an external service stands for."""
    health: HealthCheck | None = None
    """None: backends count as up."""
    traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    forwarding: Forwarding = Forwarding()
    """Of what comes to its VIPs."""
    proxying: Proxying = Proxying()


def checked_port(service: Service, check: HealthCheck, backend: Backend) -> int:
    """The port that a health check asks: its own, the backend's, or the first that is TCP.

    A program may be able to ask any; without one it is 0.
    """
    any_will_do = check.kind is HealthKind.EXEC
    ports = (one for one in service.ports if any_will_do or one.protocol is Protocol.TCP)
    return check.port or backend.port or next((one.target_port for one in ports), 0)


class Wildcard(StrEnum):
    """What `*` in a route's host stands for."""

    ONE_LABEL = "one-label"
    ANY_DEPTH = "any-depth"


class EncodedSlash(StrEnum):
    """What becomes of a request with an encoded slash or backslash in its path."""

    KEEP = "keep"
    """It stays, an ordinary character of its element."""
    REJECT = "reject"
    """400."""


class Gateway(Struct, frozen=True, kw_only=True):
    """An HTTP entry point on a VIP."""

    name: str
    ports: tuple[int, ...]
    vips: tuple[str, ...] = ()
    """As a service's."""
    pool: str | None = None
    sharing_key: str | None = None
    families: Families = Families.SINGLE
    first_family: int | None = None
    labels: dict[str, str] = {}
    wildcard: Wildcard = Wildcard.ONE_LABEL
    hosts: dict[int, tuple[str, ...]] = {}
    """By port: the hosts that are served there, if not all; as a route's."""
    default_backend: RouteBackend | None = None
    """Takes what no route takes."""
    merge_slashes: bool = True
    encoded_slash: EncodedSlash = EncodedSlash.KEEP
    entry: Entry = Entry()


class PathKind(StrEnum):
    """How a route compares the path."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"


class RouteBackend(Struct, frozen=True, kw_only=True):
    """A service that gets a share of a route's requests."""

    service: str
    port: int | None = None
    """A `port` of the service; None: its first."""
    weight: int = 1
    """Its share, against the others'; 0: nothing."""
    request_headers: HeaderEdits = HeaderEdits()
    """What becomes of its share, after what the route does."""
    response_headers: HeaderEdits = HeaderEdits()


class RetryOn(StrEnum):
    """What befell a try, so that a request is tried again."""

    CONNECT_FAILURE = "connect-failure"
    RESET = "reset"
    TIMEOUT = "timeout"


class Retries(Struct, frozen=True, kw_only=True):
    """When a request is tried again, nothing of a response having been sent."""

    attempts: int
    """After the first try."""
    on: tuple[RetryOn, ...] = tuple(RetryOn)
    statuses: tuple[int, ...] = (503,)
    backoff_ms: int = 25


class Sticky(Struct, frozen=True, kw_only=True):
    """A cookie keeps a client at its backend."""

    cookie: str
    ttl_ms: int = 0
    """0: as long as the browser is open."""


class HashOn(Struct, frozen=True, kw_only=True):
    """What of a request stands for who sends it, where Maglev chooses the backend."""

    name: str
    """A header's in lower case, or a cookie's."""
    cookie: bool = False


class Route(Struct, frozen=True, kw_only=True):
    """Which requests of a gateway go to which services."""

    name: str
    gateway: str
    hosts: tuple[str, ...]
    """Lower case, exact or `*.suffix`; empty: any host."""
    path_kind: PathKind
    path: str
    """Canonical (docs/reference/http.md); or a regular expression for canonical ones."""
    backends: tuple[RouteBackend, ...]
    """Each once; without one that has a weight the route answers 500."""
    request_timeout_ms: int = 0
    """For the whole exchange; 0: none."""
    backend_timeout_ms: int = 60_000
    """From the request sent to the response's head; 0: none."""
    retries: Retries | None = None
    sticky: Sticky | None = None
    hash_on: HashOn | None = None
    methods: tuple[str, ...] = ()
    """Empty: every method."""
    headers: tuple[Predicate, ...] = ()
    query: tuple[Predicate, ...] = ()
    filters: Filters = Filters()

    @property
    def services(self) -> set[str]:
        """All that requests go to, by name."""
        asked = {one.service for one in self.filters.asked}
        return asked | {backend.service for backend in self.backends}


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
    admin_listen: Listen | None = None
    """Where the admin API is by TCP, too."""
    admin_token: str | None = None
    """What a request over TCP has to bring; never None when others than this host can ask."""
    dns: Listen | None = None
    """Where names of services are answered, by UDP and TCP."""
    pools: tuple[Pool, ...] = ()
    services: tuple[Service, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    routes: tuple[Route, ...] = ()
    bgp: Bgp | None = None

    def vips(self) -> tuple[str, ...]:
        """Every VIP that this node may own, each once, sorted."""
        vips = self._vips()
        return tuple(sorted(vips - routed(self.pools, vips)))

    def routed_vips(self) -> tuple[str, ...]:
        """Every VIP that BGP leads to: each node that may serve it has it. Each once, sorted."""
        return tuple(sorted(routed(self.pools, self._vips())))

    def cluster_ips(self) -> tuple[str, ...]:
        """Every cluster address, each once, sorted."""
        return tuple(sorted({ip for service in self.services for ip in service.cluster_ips}))

    def pool_of(self, address: str) -> Pool | None:
        """The pool that an address lies in."""
        return next((pool for pool in self.pools if pool.holds(address)), None)

    def _vips(self) -> set[str]:
        of_services = {vip for service in self.services for vip in service.vips}
        return of_services | {vip for gateway in self.gateways for vip in gateway.vips}


def routed(pools: Iterable[Pool], vips: Collection[str]) -> set[str]:
    """Those of the VIPs that BGP leads to: no node owns them alone."""
    by_bgp = [pool for pool in pools if pool.announce is Announce.BGP]
    return {vip for vip in vips if any(pool.holds(vip) for pool in by_bgp)}
