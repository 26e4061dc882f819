"""The tables of a file: which keys there are, what each holds, what it is when it is left out.

A field without a default must be in the file. `None` stands for a key that is absent.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from piagent.config.bgp_values import (
    Asn,
    Community,
    HoldTime,
    LocalPref,
    Multihop,
    RouterId,
)
from piagent.config.entry import AccessLogFormat, GatewayLimits, UnderscoreHeaders
from piagent.config.filter_schema import BackendFilter, Filter
from piagent.config.kinds import List, Map, Table
from piagent.config.values import (
    Address,
    Addresses,
    Affinity,
    AnnounceBy,
    Attempts,
    BackendAddress,
    Balance,
    BrokerUrl,
    CheckKind,
    Conflict,
    Connections,
    CookieName,
    Count,
    Drain,
    Duration,
    DurationOrOff,
    Eligible,
    Encapsulation,
    EncodedSlash,
    Failures,
    FamilyPolicy,
    FileName,
    Flag,
    FlowCacheKind,
    HashOn,
    HeaderName,
    HeaderValue,
    HealthPath,
    HostName,
    Interface,
    IpFamily,
    LabelValue,
    Leaf,
    ListenAt,
    LogFile,
    Method,
    Mode,
    Name,
    Network,
    PoolType,
    Port,
    PositiveDuration,
    Priority,
    Profile,
    ProfileName,
    Protocol,
    ProxyHeader,
    QueryName,
    QuorumLoss,
    Rate,
    Regex,
    RetryOn,
    RouteHost,
    RoutePath,
    RouteWeight,
    ServiceType,
    StatusCode,
    Text,
    TrafficPolicy,
    VipEligible,
    Weight,
    Wildcard,
    Word,
    Workers,
)
from piagent.core import forwarding, model, proxying
from piagent.core.entry import LogFormat, Underscores

Labels = Annotated[dict[str, str], Map(LabelValue)]


class Node(Struct, frozen=True, kw_only=True):
    """[node]: this host."""

    name: Name | None = None
    interface: Interface | None = None
    vip_weight: Weight = 100
    workers: Workers | None = None
    zone: Name | None = None
    labels: Labels = {}
    vip_eligible: VipEligible = Eligible.ANY
    state_file: FileName | None = None
    flow_cache: FlowCacheKind = forwarding.FlowCache.AUTO


class Cluster(Struct, frozen=True, kw_only=True):
    """[cluster]: what all nodes share."""

    name: Name = "home"
    secret_file: FileName | None = None


class Mqtt(Struct, frozen=True, kw_only=True):
    """[mqtt]: the brokers."""

    brokers: Annotated[tuple[BrokerUrl, ...], List(BrokerUrl, at_least=1)]
    password_file: FileName | None = None
    ca_file: FileName | None = None
    cert_file: FileName | None = None
    key_file: FileName | None = None
    embedded: ListenAt | None = None


class Election(Struct, frozen=True, kw_only=True):
    """[election]: how VIPs find their owner."""

    profile: Profile = ProfileName.NORMAL
    lease: PositiveDuration | None = None
    renew: PositiveDuration | None = None
    guard: PositiveDuration | None = None
    attempt: PositiveDuration | None = None
    stagger: PositiveDuration | None = None
    lag: PositiveDuration | None = None
    candidates: Annotated[tuple[Name, ...], List(Name)] = ()
    on_quorum_loss: QuorumLoss = model.QuorumLoss.RELEASE
    preempt: DurationOrOff = None
    rebalance: DurationOrOff = 30_000
    drain: Drain = 10_000


class Admin(Struct, frozen=True, kw_only=True):
    """[admin]: the API of this node."""

    socket: FileName = "/run/piagent/admin.sock"
    listen: ListenAt | None = None
    token_file: FileName | None = None


class Dns(Struct, frozen=True, kw_only=True):
    """[dns]: names of services."""

    listen: ListenAt


class BgpPeer(Struct, frozen=True, kw_only=True):
    """[[bgp.peers]]: a router."""

    name: Name
    address: Address
    asn: Asn
    port: Port = 179
    password_file: FileName | None = None
    source_address: Address | None = None
    multihop: Multihop | None = None
    hold_time: HoldTime | None = None
    nodes: Labels = {}


class Bgp(Struct, frozen=True, kw_only=True):
    """[bgp]: the routers that VIPs are announced to."""

    asn: Asn
    router_id: RouterId | None = None
    hold_time: HoldTime = 9000
    next_hop: Annotated[tuple[Address, ...], List(Address, bare=True)] = ()
    peers: Annotated[tuple[BgpPeer, ...], List(Annotated[BgpPeer, Table(BgpPeer)], at_least=1)]


class Pool(Struct, frozen=True, kw_only=True):
    """[[pool]]: addresses that services and gateways may use."""

    name: Name
    addresses: Annotated[tuple[Addresses, ...], List(Addresses, at_least=1)]
    announce: AnnounceBy = model.Announce.ARP
    nodes: Labels = {}
    interfaces: Annotated[tuple[Interface, ...], List(Interface)] = ()
    conflict: Conflict = model.Conflict.YIELD
    type: PoolType = model.PoolType.LOAD_BALANCER
    auto_assign: Flag = True
    avoid_buggy_ips: Flag = False
    priority: Priority = 0
    disabled: Flag = False
    services: Labels = {}
    communities: Annotated[tuple[Community, ...], List(Community)] = ()
    local_pref: LocalPref | None = None
    peers: Annotated[tuple[Name, ...], List(Name)] = ()


class ServicePort(Struct, frozen=True, kw_only=True):
    """One of a service's ports."""

    port: Port
    name: Name | None = None
    protocol: Protocol = model.Protocol.TCP
    target_port: Port | None = None
    node_port: Port | None = None


class Backend(Struct, frozen=True, kw_only=True):
    """One of a service's backends."""

    address: BackendAddress
    weight: Weight = 1
    node: Name | None = None


OwnAddresses = Annotated[tuple[Address, ...], List(Address, bare=True)]
"""One, or one of each IP version."""
IpFamilies = Annotated[tuple[IpFamily, ...], List(IpFamily)]
Networks = Annotated[tuple[Network, ...], List(Network, at_least=1)]
"""An empty list could mean all of them or none."""


class Health(Struct, frozen=True, kw_only=True):
    """How a service's backends are checked."""

    kind: CheckKind = model.HealthKind.TCP
    interval: PositiveDuration = 2000
    timeout: PositiveDuration = 1000
    rise: Count = 2
    fall: Count = 3
    port: Port | None = None
    path: HealthPath | None = None
    expect: Annotated[tuple[StatusCode, ...], List(StatusCode)] = ()
    command: Annotated[tuple[Word, ...], List(Word, at_least=1)] | None = None
    shared: Flag = True


class Limits(Struct, frozen=True, kw_only=True):
    """How much a service takes."""

    connections: Connections | None = None
    connections_per_source: Connections | None = None
    accept_rate: Rate | None = None


class ServiceTimeouts(Struct, frozen=True, kw_only=True):
    """How long a service waits; "0s": for ever."""

    connect: PositiveDuration = 3_000
    idle: Duration = 3_600_000


class Ejection(Struct, frozen=True, kw_only=True):
    """When a backend that connections fail at is passed over."""

    failures: Failures = 5
    time: PositiveDuration = 10_000


class Service(Struct, frozen=True, kw_only=True):
    """[[service]]: a named set of backends."""

    name: Name
    type: ServiceType = model.ServiceType.CLUSTER
    address: OwnAddresses = ()
    pool: Name | None = None
    sharing_key: Name | None = None
    ip_family_policy: FamilyPolicy = model.Families.SINGLE
    ip_families: IpFamilies = ()
    labels: Labels = {}
    headless: Flag = False
    node_ports: Flag = True
    external_name: HostName | None = None
    ports: Annotated[tuple[ServicePort, ...], List(Annotated[ServicePort, Table(ServicePort)])] = ()
    backends: Annotated[
        tuple[Backend, ...], List(Annotated[Backend, Table(Backend, short="address")])
    ] = ()
    health: Annotated[Health, Table(Health)] | None = None
    traffic_policy: TrafficPolicy = model.TrafficPolicy.CLUSTER
    mode: Mode = forwarding.Mode.PROXY
    encapsulation: Encapsulation | None = None
    balance: Balance = proxying.Balance.MAGLEV
    affinity: Affinity = proxying.Affinity.NONE
    affinity_timeout: Duration | None = None
    allowed_sources: Networks = ()
    trusted_proxies: Networks = ()
    proxy_protocol: ProxyHeader | None = None
    source_addresses: Annotated[tuple[Address, ...], List(Address, at_least=1)] = ()
    limits: Annotated[Limits, Table(Limits)] | None = None
    timeouts: Annotated[ServiceTimeouts, Table(ServiceTimeouts)] = ServiceTimeouts()
    slow_start: Duration = 0
    drain_timeout: Duration = 600_000
    ejection: Annotated[Ejection, Table(Ejection, off=True)] | None = Ejection()
    access_log: LogFile | None = None


class Listen(Struct, frozen=True, kw_only=True):
    """One of a gateway's ports."""

    port: Port
    hosts: Annotated[tuple[RouteHost, ...], List(RouteHost, at_least=1)] = ()


class DefaultBackend(Struct, frozen=True, kw_only=True):
    """Where requests go that no route takes."""

    service: Name
    port: Port | None = None


class Gateway(Struct, frozen=True, kw_only=True):
    """[[gateway]]: an HTTP entry point."""

    name: Name
    address: OwnAddresses = ()
    pool: Name | None = None
    sharing_key: Name | None = None
    ip_family_policy: FamilyPolicy = model.Families.SINGLE
    ip_families: IpFamilies = ()
    labels: Labels = {}
    listen: Annotated[tuple[Listen, ...], List(Annotated[Listen, Table(Listen)], at_least=1)]
    wildcard: Wildcard = model.Wildcard.ONE_LABEL
    default_backend: Annotated[DefaultBackend, Table(DefaultBackend)] | None = None
    encoded_slash: EncodedSlash = model.EncodedSlash.KEEP
    merge_slashes: Flag = True
    trusted_proxies: Networks = ()
    underscore_headers: UnderscoreHeaders = Underscores.DROP
    limits: Annotated[GatewayLimits, Table(GatewayLimits)] = GatewayLimits()
    access_log: LogFile | None = None
    access_log_format: AccessLogFormat = LogFormat.JSON


class RouteBackend(Struct, frozen=True, kw_only=True):
    """Where a route's requests go."""

    service: Name
    port: Port | None = None
    weight: RouteWeight = 1
    filters: Annotated[
        tuple[BackendFilter, ...], List(Annotated[BackendFilter, Table(BackendFilter)])
    ] = ()


class HeaderMatch(Struct, frozen=True, kw_only=True):
    """What a header must be."""

    exact: HeaderValue | None = None
    regex: Regex | None = None


class QueryMatch(Struct, frozen=True, kw_only=True):
    """What a query parameter must be."""

    exact: Text | None = None
    regex: Regex | None = None


HeaderMatchOrExact = Annotated[HeaderMatch, Table(HeaderMatch, short="exact")]
QueryMatchOrExact = Annotated[QueryMatch, Table(QueryMatch, short="exact")]


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long a route's requests may take; "0s": as long as they like."""

    request: Duration = 0
    backend: Duration = 60_000


class Retries(Struct, frozen=True, kw_only=True):
    """When a route's requests are tried again."""

    attempts: Attempts
    on: Annotated[tuple[RetryOn, ...], List(RetryOn, at_least=1)] = (*model.RetryOn, 503)
    backoff: Duration = 25


class Sticky(Struct, frozen=True, kw_only=True):
    """The cookie that keeps a client at its backend."""

    cookie: CookieName
    ttl: Duration = 0


class Route(Struct, frozen=True, kw_only=True):
    """[[route]]: which requests of a gateway go where."""

    name: Name
    gateway: Name
    hosts: Annotated[tuple[RouteHost, ...], List(RouteHost)] = ()
    path_prefix: RoutePath | None = None
    path_exact: RoutePath | None = None
    path_regex: Regex | None = None
    methods: Annotated[tuple[Method, ...], List(Method, at_least=1)] = ()
    headers: Annotated[dict[str, HeaderMatch], Map(HeaderMatchOrExact, HeaderName)] = {}
    query: Annotated[dict[str, QueryMatch], Map(QueryMatchOrExact, QueryName)] = {}
    backends: Annotated[
        tuple[RouteBackend, ...], List(Annotated[RouteBackend, Table(RouteBackend)])
    ] = ()
    timeouts: Annotated[Timeouts, Table(Timeouts)] = Timeouts()
    retries: Annotated[Retries, Table(Retries)] | None = None
    sticky: Annotated[Sticky, Table(Sticky)] | None = None
    hash_on: HashOn = None
    filters: Annotated[tuple[Filter, ...], List(Annotated[Filter, Table(Filter)])] = ()


class File(Struct, frozen=True, kw_only=True):
    """A whole file."""

    mqtt: Annotated[Mqtt, Table(Mqtt)]
    node: Annotated[Node, Table(Node)] = Node()
    cluster: Annotated[Cluster, Table(Cluster)] = Cluster()
    election: Annotated[Election, Table(Election)] = Election()
    admin: Annotated[Admin, Table(Admin)] = Admin()
    dns: Annotated[Dns, Table(Dns)] | None = None
    bgp: Annotated[Bgp, Table(Bgp)] | None = None
    pool: Annotated[tuple[Pool, ...], List(Annotated[Pool, Table(Pool)])] = ()
    service: Annotated[tuple[Service, ...], List(Annotated[Service, Table(Service)])] = ()
    gateway: Annotated[tuple[Gateway, ...], List(Annotated[Gateway, Table(Gateway)])] = ()
    route: Annotated[tuple[Route, ...], List(Annotated[Route, Table(Route)])] = ()


Kind = Leaf | Table | List | Map
