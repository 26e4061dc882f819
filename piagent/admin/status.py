"""What the admin API says, as values: encoded by the agent, decoded by the CLI.

Times are Unix milliseconds. docs/reference/api.md describes every field; a test compares both.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from piagent.core.proxying import ProxyHeader


class BrokerStatus(Struct, frozen=True, kw_only=True):
    """One broker, as this node reaches it."""

    name: str
    address: str
    up: bool
    since: int
    reason: str


class VipStatus(Struct, frozen=True, kw_only=True):
    """One VIP, as this node sees it."""

    address: str
    state: str
    """"follower", "claiming" or "owner": this node's own part."""
    owner: str | None
    """The owning node, None when none is heard."""
    epoch: int
    since: int
    """When `state` was entered."""
    reason: str
    """Why `state` was entered."""
    brokers: tuple[str, ...] = ()
    """An owner's: the brokers that its lease rests on; fewer than all are less than it should be,
    and without a majority it ends."""


class NodeStatus(Struct, frozen=True, kw_only=True):
    """One node, by what it says of itself."""

    name: str
    host: str
    """Its host name."""
    vips: int
    """How many VIPs it owns, as far as is heard."""
    share: int
    """How many it should own at most."""
    zone: str
    draining: bool


class RejectedNode(Struct, frozen=True, kw_only=True):
    """Why a node is not the first for a VIP."""

    node: str
    reason: str
    """Its own reason to refuse, or the criterion by which it stands behind."""
    detail: str


class Why(Struct, frozen=True, kw_only=True, tag_field="of", tag="vip"):
    """Who owns a VIP and why, who would be next, and why not the others."""

    vip: VipStatus
    rival: str | None
    """The hardware address of another host that used the VIP, when one was seen."""
    next: str | None
    """Who should own it if this node did not."""
    others: tuple[RejectedNode, ...]


class BackendStatus(Struct, frozen=True, kw_only=True):
    """One backend of a service."""

    address: str
    weight: int
    up: bool
    since: int
    reason: str
    ejected: bool = False
    """At one of the service's ports at least, on this node."""
    checked_by: str | None = None
    """The node that checked it last, as far as this one knows."""
    checked: int | None = None
    """When this node did, or heard of it."""


class PortStatus(Struct, frozen=True, kw_only=True):
    """One port of a service."""

    name: str
    port: int
    protocol: str
    node_port: int | None


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """One service with its backends."""

    name: str
    type: str
    vips: tuple[str, ...]
    cluster_ips: tuple[str, ...]
    ports: tuple[PortStatus, ...]
    backends: tuple[BackendStatus, ...]
    applied: int
    """The version that was applied; 0: it is in the node's file."""
    mode: str = "proxy"
    """How what comes to its VIPs gets to the backends."""
    encapsulation: str | None = None


class GatewayStatus(Struct, frozen=True, kw_only=True):
    """One gateway."""

    name: str
    vips: tuple[str, ...]
    ports: tuple[int, ...]
    applied: int
    """As a service's."""


class Target(Struct, frozen=True):
    """Where a share of a route's requests goes.

    Not what becomes of its header fields: a filter may set a password.
    """

    service: str
    weight: int = 1


class RouteStatus(Struct, frozen=True, kw_only=True):
    """One entry of a gateway's match table; entries are in order of precedence."""

    gateway: str
    name: str
    host: str
    path: str
    exact: bool
    targets: tuple[Target, ...]
    regex: bool = False
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    """As people write them: `x-canary=yes`, `x-user~^t-`."""
    query: tuple[str, ...] = ()


class Status(Struct, frozen=True, kw_only=True):
    """The node as a whole."""

    node: str
    cluster: str
    version: str
    started: int
    ready: bool
    reason: str
    """Why it is not ready, else "ready"."""
    brokers: tuple[BrokerStatus, ...]
    leader: str | None
    """The node that leads the cluster; no failover needs it."""
    fence: str
    """"holds", or why only the lifetimes of the addresses end what a dead agent leaves."""
    nodes: tuple[NodeStatus, ...]
    vips: tuple[VipStatus, ...]
    services: tuple[ServiceStatus, ...]
    gateways: tuple[GatewayStatus, ...] = ()
    notes: tuple[NoteStatus, ...] = ()
    routed: tuple[RoutedStatus, ...] = ()
    bgp: tuple[SessionStatus, ...] = ()
    drains: tuple[DrainStatus, ...] = ()
    forwarding: ForwardingStatus | None = None


class UnreachedStatus(Struct, frozen=True, kw_only=True):
    """A backend that forwarded packets do not get to from this node."""

    service: str
    """`service:port`."""
    backend: str
    """`address:port`."""
    reason: str


class ForwardingStatus(Struct, frozen=True, kw_only=True):
    """How this node forwards packets."""

    flow_cache: str
    """What carries established flows: "xdp", "xdp-generic", "tc"; "forwarder": the agent itself;
    "none": nothing can, now."""
    reason: str
    unreached: tuple[UnreachedStatus, ...] = ()


class DrainStatus(Struct, frozen=True, kw_only=True):
    """A backend that gets no more connections, and keeps those that it has for a while."""

    service: str
    """`service:port`."""
    backend: str
    """`address:port`."""
    connections: int
    until: int
    """When they are cut."""


class NoteStatus(Struct, frozen=True, kw_only=True):
    """Something about services that is not as it was wished."""

    about: str
    """`service/web`, `gateway/front`, `route/api`, or a port or address of this node."""
    reason: str
    detail: str


class RoutedStatus(Struct, frozen=True, kw_only=True):
    """A VIP that BGP leads to."""

    address: str
    announced: bool
    """By this node, now."""
    reason: str


class SessionStatus(Struct, frozen=True, kw_only=True):
    """A BGP session with a router."""

    peer: str
    up: bool
    reason: str


class PoolCount(Struct, frozen=True, kw_only=True):
    """How many addresses of one IP version a pool has, each number at most 2**53."""

    family: int
    """4 or 6."""
    total: int
    used: int
    free: int


class PoolStatus(Struct, frozen=True, kw_only=True):
    """A pool, of any node's file."""

    name: str
    type: str
    addresses: tuple[str, ...]
    """`first-last`."""
    disabled: bool
    counts: tuple[PoolCount, ...]


class AppliedStatus(Struct, frozen=True, kw_only=True):
    """Something that was applied and is in force."""

    kind: str
    name: str
    version: int
    table: dict[str, Any]
    """As it was in the file; empty when this node does not have it yet."""
    vips: tuple[str, ...]
    cluster_ips: tuple[str, ...]
    node_ports: dict[str, int]
    """Port name -> number."""


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """A program that joined a service."""

    node: str
    """Where it registered itself."""
    service: str
    address: str
    """`address:port`."""


class WhyService(Struct, frozen=True, kw_only=True, tag_field="of", tag="name"):
    """Why a service or gateway has the addresses that it has, or has none."""

    name: str
    kind: str
    applied: int
    vips: tuple[str, ...]
    cluster_ips: tuple[str, ...]
    ports: tuple[PortStatus, ...]
    pool: str | None
    """Where its addresses are from."""
    given: str
    """How it came by them: a reason, or empty when its file says them and no leader has."""
    owners: dict[str, str | None]
    """VIP -> the node that owns it."""
    notes: tuple[NoteStatus, ...]
    backends: tuple[BackendStatus, ...]
    mode: str = "proxy"
    """As a service's."""
    encapsulation: str | None = None


class FlowBackend(Struct, frozen=True, kw_only=True):
    """A backend, as the choice for a flow sees it."""

    name: str
    weight: int
    up: bool
    active: int
    share: float
    """Of its share, while it starts slowly; 1: all of it."""
    ejected_ms: int
    passed_over: str
    """Why a first choice leaves it out; empty: it does not."""


class ForwardChange(Struct, frozen=True):
    """What is another one in a packet when it has been forwarded."""

    field: str
    before: str
    """Empty: there was none, as in an outer header."""
    after: str


class ForwardBackend(Struct, frozen=True, kw_only=True):
    """A backend, as the choice for a flow that is forwarded sees it."""

    name: str
    weight: int
    up: bool
    passed_over: str
    """Why nothing new gets there: "down", "weight", "unreachable", "client"; empty: it does."""
    reason: str
    """The way to it (PathReason)."""


class CarriedFlow(Struct, frozen=True, kw_only=True):
    """A flow that the kernel carries by now."""

    backend: str | None
    """None: one that is none any more."""
    packets: int
    bytes: int
    idle_ms: int | None
    """Since the last packet; None: there was none."""


class ProgramRun(Struct, frozen=True, kw_only=True):
    """What a program of the kernel's did with a packet of such a flow."""

    program: str
    """"xdp" or "tc"."""
    way: str
    """"request" or "answer"."""
    verdict: str
    """"carried", "passed" (to the forwarder), "dropped" …"""
    same: bool | None
    """Whether it made of it what the forwarder makes; None: nothing, as it passed it."""


class ForwardStatus(Struct, frozen=True, kw_only=True):
    """What the forwarder does with a packet that begins a flow, as a trial shows."""

    how: str
    """"nat", "dsr" or "ipip"."""
    verdict: str
    kind: str
    """What it was taken for."""
    remembers_ms: int
    """For how long the live forwarder has a client's flows go where its latest one went."""
    interface: str
    """That it leaves by; empty: it does not."""
    mac: str
    """Where to."""
    mtu: int | None
    """The longest IP packet of the flow that may come."""
    changes: tuple[ForwardChange, ...]
    frame_in: str
    """Hexadecimal."""
    frame_out: str
    """Empty: it goes no further."""
    answer: str
    """The frame that its sender is sent; empty: none."""
    answer_mtu: int | None
    """What that says is the longest packet that may come."""
    backends: tuple[ForwardBackend, ...]
    flow_cache: str
    """What carries established flows, as in ForwardingStatus."""
    cache_reason: str
    carried: CarriedFlow | None
    bpf: tuple[ProgramRun, ...] | None
    """None: they were not asked. Empty: they get no such flow."""


class FlowStatus(Struct, frozen=True, kw_only=True):
    """What becomes of a flow that comes to this node now, and why."""

    node: str
    vip: bool
    """Whether it is for a VIP."""
    owner: str | None
    """The VIP's."""
    listener: str | None
    """None: nobody listens there."""
    gateway: str | None
    """What is routed request by request; all that follows is None then, or empty."""
    service: str | None
    allowed: bool | None
    header: bool | None
    """Whether it must begin with a PROXY header: who that names is what counts then."""
    policy: str | None
    affinity: bool | None
    hash: str | None
    entry: int | None
    """Of the Maglev table."""
    table: str | None
    """The backend there."""
    remembered: str | None
    """The backend that the client had last."""
    chosen: str | None
    """None: none, or the worker that gets it decides."""
    orders: tuple[tuple[str, ...], ...]
    """By worker, in which order backends are tried."""
    backends: tuple[FlowBackend, ...]
    forward: ForwardStatus | None = None
    """Of what is forwarded; the rest is what it gets then, its own backends apart."""


class MoveVip(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/vips/move."""

    vip: str
    node: str


class DrainNode(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/nodes/drain."""

    node: str = ""
    """Empty: the node that is asked."""
    drain: bool = True


class TunnelBackend(Struct, frozen=True):
    """Where a tunnel may end."""

    address: str
    port: int


class Tunnel(Struct, frozen=True, kw_only=True):
    """What a tunnel to a service leads to."""

    service: str
    port: int
    """The service's."""
    backends: tuple[TunnelBackend, ...]
    """In the order in which they are tried."""
    header: ProxyHeader | None = None
    """What their connections begin with; it names no client."""


class RegisterEndpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/endpoints/register: said again before it is over."""

    service: str
    port: int
    address: str = ""
    """Empty: the node's own."""
    only: str | None = None
    """The name of the one service port that it serves; None: all of them."""
    weight: int = 1
    ttl_ms: int = 10_000


class RemoveEndpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /api/v1/endpoints/remove."""

    service: str
    port: int
    address: str = ""


class Done(Struct, frozen=True):
    """What was asked for has happened, or has begun."""

    done: bool = True


class ApiError(Struct, frozen=True):
    """Every answer that is not a success."""

    error: str
    detail: str
