"""What Python tells the engine to do, and the check that it makes sense."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastpath.conditions import Predicate, check_conditions
from fastpath.filters import Filters, HeaderEdits, asked_of, check_edits, check_filters
from fastpath.options import Options, check_options
from fastpath.sockets import resolve

REASONS = (
    "capacity",
    "descriptors",
    "no_backend",
    "connect_failed",
    "source_not_allowed",
    "service_limit",
    "client_limit",
    "bad_preface",
    "no_local_port",
)
"""Why connections were turned away, in the order of abi.pxd's REJECT_*."""

ENDS = (
    "client",
    "backend",
    "client_reset",
    "backend_reset",
    "idle",
    "cut",
    "drained",
    "evicted",
    "stopped",
    "trouble",
)
"""How streams of TCP services ended, in the order of abi.pxd's END_*."""

BALANCES = ("maglev", "round-robin", "least-connections", "random-two")
"""How a backend is chosen, in the order of abi.pxd's BALANCE_*."""

RETRY_REASONS = ("connect-failure", "reset", "timeout")
"""What befell a try, in the order of abi.pxd's RETRY_*."""

PASSES = ("", "unusable", "tried", "ejected", "slow_start")
"""Why choices pass over a backend, in the order of proxy/policies.pxd's pass_t."""

CONNECT_BOUNDS_S = tuple(0.000_25 * 4**i for i in range(11))
SESSION_BOUNDS_S = tuple(0.01 * 4**i for i in range(11))
"""Upper bounds of the histograms' buckets, as in abi.pxd's times_t; one more is above them."""

_SOURCES_MAX = 16
_HOSTS_MAX = 64
_RATE_MAX = 1_000_000
_WEIGHT_MAX = 65535
_TARGETS_MAX = 16
_SHARE_MAX = 1_000_000
_ATTEMPTS_MAX = 10
COOKIE_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"
"""RFC 6265, 4.1.1: a token."""
TIMEOUT_MAX_MS = 0x7FFFFFFF


DROPS = (
    "no_backend",
    "descriptors",
    "unsent",
    "truncated",
    "group",
    "source_not_allowed",
    "service_limit",
    "client_limit",
)
"""Why datagrams were dropped, in the order of abi.pxd's DROP_*."""

EVICTIONS = ("table_full", "client_limit")
"""Why UDP sessions made room for newer ones, in the order of abi.pxd's EVICTED_*."""


class Backend(NamedTuple):
    """A place to connect to."""

    name: str
    """Stable name: Maglev hashes it, counters are kept by it."""
    address: str
    port: int
    weight: int
    up: bool


class Service(NamedTuple):
    """A balanced set of backends."""

    name: str
    backends: tuple[Backend, ...]
    connect_timeout_ms: int = 3000
    idle_timeout_ms: int = 3_600_000
    affinity: bool = False
    """All that comes from one client address goes to one backend, as long as the usable ones stay.

    It is the client's address that is hashed, so every node chooses alike and none remembers.
    """
    balance: str = "maglev"
    """One of BALANCES."""
    affinity_timeout_ms: int = 0
    """With affinity: a client's backend is remembered for so long after its last connection began,
    whatever becomes of the others; 0: nothing is remembered."""
    allowed: tuple[str, ...] = ()
    """CIDR prefixes of the clients that may connect; none: every one."""
    trusted: tuple[str, ...] = ()
    """CIDR prefixes of proxies, whose connections begin with a PROXY header."""
    proxy_header: int = 0
    """The version of the PROXY protocol that backends are told by who the client is; 0: none."""
    sources: tuple[str, ...] = ()
    """This host's addresses that connections to backends come from; none: the kernel's choice."""
    connections_max: int = 0
    connections_per_source: int = 0
    """Open ones at a time, in all and from one client address; 0: no limit of its own.

    Of UDP they limit sessions; a client that has as many as it may loses its oldest to the next.
    """
    accept_rate: int = 0
    """Connections a second; what is above waits in the kernel's backlog. 0: no limit."""
    slow_start_ms: int = 0
    """A backend that was down gets its whole share only so long after it has come back."""
    eject_failures: int = 0
    """A backend is passed over when so many connections in a row came to nothing; 0: never."""
    eject_ms: int = 10_000
    """For how long at first; longer each time that it has not answered in between."""
    logs: bool = False
    """Whether a record of each connection is kept for `Engine.read_log`."""


class Target(NamedTuple):
    """Where a share of a route's requests goes."""

    service: str
    """"": one that is not there, its share is answered with 500."""
    weight: int = 1
    """Its share, against the others'; 0: nothing."""
    request_headers: HeaderEdits = HeaderEdits()
    """What becomes of the fields of its requests, after what the route does."""
    response_headers: HeaderEdits = HeaderEdits()

    @property
    def has_filters(self) -> bool:
        """Whether it is not like any other."""
        return any(any(edits) for edits in (self.request_headers, self.response_headers))


class Retries(NamedTuple):
    """When a request is tried again, nothing of a response having been sent."""

    attempts: int
    """After the first try."""
    on: tuple[str, ...] = RETRY_REASONS
    """Of RETRY_REASONS."""
    statuses: tuple[int, ...] = ()
    """Responses that are as good as none, from 400 to 599."""
    backoff_ms: int = 25
    """Before the second try, about; doubles with each."""


class Sticky(NamedTuple):
    """A cookie keeps a client at its backend."""

    cookie: str
    """Its name."""
    ttl_s: int = 0
    """0: as long as the browser is open."""


class HashOn(NamedTuple):
    """What of a request stands for who sends it, for services with Maglev."""

    name: str
    """A header's in lower case, or a cookie's."""
    cookie: bool = False


class Route(NamedTuple):
    """One entry of a gateway's table; the first that matches wins."""

    name: str
    host: str
    """"" any host, "a.b" exact, "*.b" wildcard; lower case."""
    path: str
    exact: bool
    targets: tuple[Target, ...]
    """Without one that has a weight all is answered with 500."""
    request_timeout_ms: int
    backend_timeout_ms: int
    retries: Retries | None = None
    sticky: Sticky | None = None
    hash_on: HashOn | None = None
    """None: a hash of the connection, or of the client's address with affinity."""
    program: bytes = b""
    """A compiled regular expression for the path; `path` is its text then."""
    methods: tuple[str, ...] = ()
    """None: every method."""
    headers: tuple[Predicate, ...] = ()
    query: tuple[Predicate, ...] = ()
    filters: Filters = Filters()


class Gateway(NamedTuple):
    """An HTTP router."""

    name: str
    any_depth: bool
    """Whether `*` in a host stands for one label or for one and more."""
    routes: tuple[Route, ...]
    header_timeout_ms: int = 10_000
    body_idle_timeout_ms: int = 60_000
    keepalive_timeout_ms: int = 75_000
    tunnel_idle_timeout_ms: int = 3_600_000
    keeps_slashes: bool = False
    """Whether `//` in a path stays."""
    refuses_slash: bool = False
    """Whether an encoded slash or backslash in a path is answered with 400."""
    options: Options = Options()


class Listener(NamedTuple):
    """A port to accept on, or to take datagrams from."""

    address: str
    """`0.0.0.0` or `::`: every one of its family; those that have listeners of their own go first.
    """
    port: int
    target: str
    http: bool
    draining: bool = False
    """Go on accepting, but end each HTTP connection with its next response; others live on."""
    udp: bool = False
    hosts: tuple[str, ...] = ()
    """Of an HTTP one: the hosts that it serves, as a Route's; others get 404. None: every host."""

    @property
    def key(self) -> tuple[str, int, bool]:
        """Its identity: one that is there in the next tables too is never closed."""
        return (self.address, self.port, self.udp)

    @property
    def place(self) -> str:
        """For people: `10.0.0.1:53`, `[fd00::1]:53/udp`."""
        return place_of(*self.key)


class LogRecord(NamedTuple):
    """A connection of a TCP service that is over."""

    service: str
    backend: str | None
    """None: it never reached one."""
    client: str
    client_port: int
    address: str
    """Where the client connected to."""
    port: int
    started: float
    """Unix time in seconds."""
    connect_s: float | None
    """How long connecting to the backend took; None: as `backend`."""
    duration_s: float
    bytes_in: int
    """From the client."""
    bytes_out: int
    end: str
    """One of ENDS, or of REASONS when it was turned away."""


class ListenError(OSError):
    """A listener that cannot be bound; `filename` says it for people: `10.0.0.1:53/udp`."""

    def __init__(self, error: OSError, listener: Listener) -> None:
        """Say which listener `error` happened to."""
        super().__init__(error.errno, error.strerror, listener.place)
        self.address = listener.address
        self.port = listener.port
        self.udp = listener.udp


class Tables(NamedTuple):
    """Everything the workers need to know."""

    listeners: tuple[Listener, ...]
    services: tuple[Service, ...]
    gateways: tuple[Gateway, ...]


class Flow(NamedTuple):
    """A connection or session as it comes to a listener."""

    src: str
    sport: int
    dst: str
    dport: int
    udp: bool = False


def place_of(address: str, port: int, udp: bool) -> str:
    """Write a listener's identity for people: `10.0.0.1:53`, `[fd00::1]:53/udp`."""
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{port}/udp" if udp else f"{host}:{port}"


def check(tables: Tables) -> None:
    """Raise ValueError, naming the place, for tables that contradict themselves."""
    _check_unique("service", [service.name for service in tables.services])
    _check_unique("gateway", [gateway.name for gateway in tables.gateways])
    _check_unique("listener", [each.place for each in tables.listeners])
    for service in tables.services:
        _check_service(service)
    services = {service.name for service in tables.services}
    for gateway in tables.gateways:
        _check_gateway(gateway, services)
    gateways = {gateway.name for gateway in tables.gateways}
    for listener in tables.listeners:
        resolve(listener.address, listener.port)
        place = f"listener {listener.place}"
        if listener.http and listener.udp:
            raise ValueError(f"{place}: HTTP does not come over UDP")
        if len(listener.hosts) > _HOSTS_MAX:
            raise ValueError(f"{place}: {len(listener.hosts)} hosts, {_HOSTS_MAX} at most")
        for host in listener.hosts:
            if not host or not listener.http:
                raise ValueError(f"{place}: host {host!r} is none, or nothing there has one")
            _check_host(place, host)
        if listener.target not in (gateways if listener.http else services):
            kind = "gateway" if listener.http else "service"
            raise ValueError(f"{place}: there is no {kind} {listener.target!r}")


def _check_unique(what: str, names: Iterable[object]) -> None:
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} {name!r} is there twice")
        seen.add(name)


def _check_service(service: Service) -> None:
    place = f"service {service.name!r}"
    _check_unique(f"{place}: backend", [backend.name for backend in service.backends])
    _check_times(place, connect=service.connect_timeout_ms, idle=service.idle_timeout_ms)
    _check_times(place, affinity=service.affinity_timeout_ms, slow_start=service.slow_start_ms)
    _check_times(place, eject=service.eject_ms)
    _check_choices(place, service)
    for backend in service.backends:
        resolve(backend.address, backend.port)
        if not 0 <= backend.weight <= _WEIGHT_MAX:
            raise ValueError(
                f"{place}: backend {backend.name!r}: weight {backend.weight} is not between 0 and"
                f" {_WEIGHT_MAX}"
            )


def _check_choices(place: str, service: Service) -> None:
    if service.balance not in BALANCES:
        raise ValueError(f"{place}: balance {service.balance!r} is none of {', '.join(BALANCES)}")
    if service.proxy_header not in {0, 1, 2}:
        raise ValueError(f"{place}: there is no version {service.proxy_header} of PROXY headers")
    if len(service.sources) > _SOURCES_MAX:
        raise ValueError(
            f"{place}: {len(service.sources)} source addresses, {_SOURCES_MAX} at most"
        )
    for address in service.sources:
        resolve(address, 1)
    for prefix in (*service.allowed, *service.trusted):
        ipaddress.ip_network(prefix)
    for name, value, most in (
        ("connections_max", service.connections_max, TIMEOUT_MAX_MS),
        ("connections_per_source", service.connections_per_source, TIMEOUT_MAX_MS),
        ("accept_rate", service.accept_rate, _RATE_MAX),
        ("eject_failures", service.eject_failures, _WEIGHT_MAX),
    ):
        if not 0 <= value <= most:
            raise ValueError(f"{place}: {name} {value} is not between 0 and {most}")


def _check_gateway(gateway: Gateway, services: set[str]) -> None:
    place = f"gateway {gateway.name!r}"
    for name, value in _times(gateway):
        _check_times(place, **{name: value})
    check_options(place, gateway.options)
    for route in gateway.routes:
        where = f"{place}: route {route.name!r}"
        _check_targets(where, route.targets, services)
        for service in asked_of(route.filters):
            _check_asked(where, service, services)
        if not route.path.startswith("/") and not route.program:
            raise ValueError(f"{where}: path {route.path!r} does not begin with a slash")
        _check_host(where, route.host)
        check_conditions(where, route)
        _check_times(where, request=route.request_timeout_ms, backend=route.backend_timeout_ms)
        if route.retries is not None:
            _check_retries(where, route.retries)
        if route.sticky is not None:
            _check_sticky(where, route.sticky)
        if route.hash_on is not None:
            _check_cookie(where, route.hash_on.name)
        check_filters(where, route.filters)
        for target in route.targets:
            check_edits(where, route.filters.request_headers, target.request_headers)
            check_edits(where, route.filters.response_headers, target.response_headers)


def _check_targets(where: str, targets: tuple[Target, ...], services: set[str]) -> None:
    if len(targets) > _TARGETS_MAX:
        raise ValueError(f"{where}: {len(targets)} targets, {_TARGETS_MAX} at most")
    for target in targets:
        _check_asked(where, target.service, services)
        if not 0 <= target.weight <= _SHARE_MAX:
            raise ValueError(
                f"{where}: weight {target.weight} of {target.service!r} is not between 0 and"
                f" {_SHARE_MAX}"
            )


def _check_asked(where: str, service: str, services: set[str]) -> None:
    if service and service not in services:
        raise ValueError(f"{where}: there is no service {service!r}")


def _check_retries(where: str, retries: Retries) -> None:
    if not 0 < retries.attempts <= _ATTEMPTS_MAX:
        raise ValueError(f"{where}: {retries.attempts} attempts: not between 1 and {_ATTEMPTS_MAX}")
    for reason in retries.on:
        if reason not in RETRY_REASONS:
            raise ValueError(f"{where}: {reason!r} is none of {', '.join(RETRY_REASONS)}")
    for status in retries.statuses:
        if not 400 <= status <= 599:
            raise ValueError(f"{where}: status {status} is not between 400 and 599")
    _check_times(where, backoff=retries.backoff_ms)


def _check_sticky(where: str, sticky: Sticky) -> None:
    _check_cookie(where, sticky.cookie)
    if not 0 <= sticky.ttl_s <= TIMEOUT_MAX_MS:
        raise ValueError(f"{where}: a cookie for {sticky.ttl_s} s")


def _check_cookie(where: str, name: str) -> None:
    """A header's name has the same form: both are tokens."""
    if not re.fullmatch(COOKIE_NAME, name):
        raise ValueError(f"{where}: {name!r} is no name for a cookie or header")


def _check_host(where: str, host: str) -> None:
    if "*" in host[1:] or (host[:1] == "*" and host[1:2] != "."):
        raise ValueError(f"{where}: host {host!r} has a `*` elsewhere than in `*.` before")


def _times(gateway: Gateway) -> Iterator[tuple[str, int]]:
    yield "header", gateway.header_timeout_ms
    yield "body_idle", gateway.body_idle_timeout_ms
    yield "keepalive", gateway.keepalive_timeout_ms
    yield "tunnel_idle", gateway.tunnel_idle_timeout_ms


def _check_times(place: str, **times_ms: int) -> None:
    for name, value in times_ms.items():
        if not 0 <= value <= TIMEOUT_MAX_MS:
            raise ValueError(f"{place}: {name} timeout of {value} ms is out of range")
