"""Python's tables -> the C tables that the workers read.

Off-line work, under the interpreter: it may take its time and raise. Maglev tables are the costly
part (1 to 2 ms each): one whose backends did not change is taken over from the snapshot before.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastpath.abi cimport (
    PROTOCOL_HTTP, PROTOCOL_TCP, PROTOCOL_UDP, backend_t, cut_t, gateway_t, listener_t, range_t,
    route_t, service_t,
)
from fastpath.filter_tables cimport FilterTable
from fastpath.http.route_tables cimport RouteTables
from fastpath.option_tables cimport OptionTable
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, sockaddr_any_t, sockaddr_in, sockaddr_in6
from fastpath.table_parts cimport array_new, maglev_entries, ranges_put, token_of

import socket
import time

from fastpath.filters import Filters
from fastpath.options import Options
from fastpath.prefixes import merged
from fastpath.sockets import resolve
from fastpath.tables import BALANCES

cdef class Snapshot:
    """Owns one snapshot_t; free it when no worker can have it any more, by letting go of it."""

    def __cinit__(self):
        self.maglev = {}
        self.filters = {}
        self.options = []
        self.c = <snapshot_t *>calloc(1, sizeof(snapshot_t))
        if self.c == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.c == NULL:
            return
        free(self.c.listeners)
        free(self.c.services)
        free(self.c.backends)
        free(self.c.ranges)
        free(self.c.sources)
        free(self.c.fds)
        free(self.c.cuts)
        free(self.c)


def compile(tables, numbering, listening, limits, generation, draining, cuts, hash_key,
            Snapshot previous):
    """Checked tables -> Snapshot.

    numbering: fastpath.numbering.Numbering of these tables; listening: Listener.key -> descriptors;
    limits: fastpath.limits.Limits; cuts: [(generation, kind, slot), …], as cut_t; hash_key: of
    the cluster; previous: the snapshot before, or None.
    """
    cdef Snapshot self = Snapshot.__new__(Snapshot)
    self.c.generation = generation
    self.c.draining = draining
    self.c.clients_max = limits.clients
    self.c.sockets_max = limits.sockets_per_worker
    self.c.pipes_max = limits.pipes_per_worker
    self.c.sessions_max = limits.sessions_per_worker
    services = _put_services(self, tables.services, numbering, hash_key, previous)
    gateways = _put_gateways(self, tables.gateways, numbering, services, previous)
    _put_listeners(self, tables.listeners, numbering, listening, services, gateways)
    _put_cuts(self, cuts)
    return self


cdef Py_ssize_t _total(list parts):
    """How many elements they have together."""
    return sum(map(len, parts))


cdef uint32_t put_address(sockaddr_any_t *where, str address, int port) except 0:
    """Write a socket address and return its size."""
    endpoint = resolve(address, port)
    cdef bytes packed = endpoint.packed
    memset(where, 0, sizeof(sockaddr_any_t))
    if endpoint.family == socket.AF_INET:
        where.v4.sin_family = AF_INET
        where.v4.sin_port = htons(<uint16_t>port)
        memcpy(&where.v4.sin_addr, <const uint8_t *>packed, 4)
        return sizeof(sockaddr_in)
    where.v6.sin6_family = AF_INET6
    where.v6.sin6_port = htons(<uint16_t>port)
    memcpy(&where.v6.sin6_addr, <const uint8_t *>packed, 16)
    where.v6.sin6_scope_id = endpoint.scope
    return sizeof(sockaddr_in6)


cdef dict _put_services(
    Snapshot self, tuple services, numbering, bytes hash_key, Snapshot previous
):
    """Fill in services and backends; returns name -> index."""
    cdef service_t *service
    cdef backend_t *backend
    cdef Py_ssize_t n_backends = _total([each.backends for each in services])
    cdef Py_ssize_t i, j, n_before = 0
    cdef Rules rules = Rules(self, services)
    cdef dict kept = {} if previous is None else previous.maglev
    self.c.n_services = <uint32_t>len(services)
    self.c.services = <service_t *>array_new(len(services), sizeof(service_t))
    self.c.backends = <backend_t *>array_new(n_backends, sizeof(backend_t))
    for i, wanted in enumerate(services):
        service = &self.c.services[i]
        service.slot = numbering.services[wanted.name]
        service.born = _service_born(self, service.slot, previous)
        rules.put(service, wanted)
        service.backends = &self.c.backends[n_before]
        service.n_backends = <uint16_t>len(wanted.backends)
        n_before += service.n_backends
        self.c.service_of_slot[service.slot] = service
        usable = []
        # Every node must see the same order: Maglev's turns go by it.
        for j, place in enumerate(sorted(wanted.backends, key=_name)):
            backend = &service.backends[j]
            backend.address_size = put_address(&backend.address, place.address, place.port)
            backend.slot = numbering.backends[wanted.name, place.name]
            backend.service_slot = service.slot
            backend.token = token_of(hash_key, wanted.name, place.name)
            backend.weight = place.weight
            backend.up = bool(place.up)
            backend.usable = bool(place.up and place.weight > 0)
            backend.born = _backend_born(self, backend.slot, previous)
            backend.returned_ms = _returned_ms(backend, previous)
            self.c.backend_of_slot[backend.slot] = backend
            if backend.usable:
                service.weight += backend.weight
                usable.append((place.name, place.weight, j))
        service.n_usable = <uint16_t>len(usable)
        service.maglev = maglev_entries(self.maglev, kept, tuple(usable))
    return {each.name: i for i, each in enumerate(services)}


# A slot of the snapshot before is still its owner's: it rests before another one gets it.

cdef uint64_t _service_born(Snapshot self, uint16_t slot, Snapshot previous):
    if previous is None or previous.c.service_of_slot[slot] == NULL:
        return self.c.generation
    return previous.c.service_of_slot[slot].born


cdef uint64_t _backend_born(Snapshot self, uint16_t slot, Snapshot previous):
    if previous is None or previous.c.backend_of_slot[slot] == NULL:
        return self.c.generation
    return previous.c.backend_of_slot[slot].born


cdef uint64_t _returned_ms(const backend_t *backend, Snapshot previous):
    """When it became usable again: now, if it was there before and was not."""
    cdef const backend_t *before
    if previous is None or previous.c.backend_of_slot[backend.slot] == NULL:
        return 0
    before = previous.c.backend_of_slot[backend.slot]
    if not backend.usable or before.usable:
        return before.returned_ms
    return time.monotonic_ns() // 1_000_000


cdef class Rules:
    """Fills in what a service says of its connections, and its share of the arrays for it."""

    cdef Snapshot snapshot
    cdef range_t *next_range
    cdef sockaddr_any_t *next_source

    def __cinit__(self, Snapshot snapshot, tuple services):
        self.snapshot = snapshot
        n_ranges = _total([(*each.allowed, *each.trusted) for each in services])
        n_sources = _total([each.sources for each in services])
        snapshot.c.ranges = self.next_range = <range_t *>array_new(n_ranges, sizeof(range_t))
        snapshot.c.sources = <sockaddr_any_t *>array_new(n_sources, sizeof(sockaddr_any_t))
        self.next_source = snapshot.c.sources

    cdef object put(self, service_t *service, wanted):
        service.connect_timeout_ms = wanted.connect_timeout_ms
        service.idle_timeout_ms = wanted.idle_timeout_ms
        service.affinity = bool(wanted.affinity)
        service.affinity_timeout_ms = wanted.affinity_timeout_ms
        service.balance = BALANCES.index(wanted.balance)
        service.slow_start_ms = wanted.slow_start_ms
        service.eject_failures = wanted.eject_failures
        service.eject_ms = wanted.eject_ms
        service.connections_max = wanted.connections_max
        service.connections_per_source = wanted.connections_per_source
        service.accept_rate = wanted.accept_rate
        service.proxy_header = wanted.proxy_header
        service.logs = bool(wanted.logs)
        service.sources = self.next_source
        service.n_sources = <uint8_t>len(wanted.sources)
        for address in wanted.sources:
            # A port is what the kernel finds.
            put_address(self.next_source, address, 1)
            self.next_source.v4.sin_port = 0            # as in a sockaddr_in6
            self.next_source += 1
        self.next_range = ranges_put(&service.allowed, self.next_range, merged(wanted.allowed))
        self.next_range = ranges_put(&service.trusted, self.next_range, merged(wanted.trusted))


def _name(backend):
    return backend.name


cdef dict _put_gateways(
    Snapshot self, tuple gateways, numbering, dict services, Snapshot previous
):
    """Fill in gateways and routes; returns name -> index."""
    cdef RouteTables tables = RouteTables(gateways)
    cdef Py_ssize_t i
    tables.put_all(gateways, numbering, self.c.services, services)
    self.route_tables = tables
    self.c.n_gateways = <uint32_t>len(gateways)
    self.c.gateways = tables.gateways
    for i in range(len(gateways)):
        self.c.gateway_of_slot[tables.gateways[i].slot] = &tables.gateways[i]
        _put_options(self, &tables.gateways[i], gateways[i].options)
    wanted = [route for each in gateways for route in each.routes]
    for i in range(tables.n_routes):
        self.c.route_of_slot[tables.routes[i].slot] = &tables.routes[i]
        _put_filters(self, &tables.routes[i], wanted[i], services, previous)
    return {each.name: i for i, each in enumerate(gateways)}


cdef object _put_options(Snapshot self, gateway_t *gateway, wanted):
    """Fill in what it lets in."""
    if wanted == Options():
        return
    self.options.append(OptionTable(wanted))
    gateway.options = (<OptionTable>self.options[len(self.options) - 1]).c


cdef const service_t *_asked(Snapshot self, one, dict services) except? NULL:
    """The service that a filter names; NULL: none, or one that is not there."""
    if one is None or not one.service:
        return NULL
    return &self.c.services[<Py_ssize_t>services[one.service]]


cdef object _put_filters(
    Snapshot self, route_t *route, wanted, dict services, Snapshot previous
):
    """Fill in what it does to what comes through, and since when it has its slot."""
    cdef FilterTable table
    route.born = self.c.generation
    if previous is not None and previous.c.route_of_slot[route.slot] != NULL:
        route.born = previous.c.route_of_slot[route.slot].born
    targets = tuple([target for target in wanted.targets if target.weight > 0])
    if wanted.filters == Filters() and not any([target.has_filters for target in targets]):
        return
    key = (wanted.filters, targets)
    if key not in self.filters:
        self.filters[key] = table = FilterTable(wanted.filters, targets)
        table.c.forward_auth.service = _asked(self, wanted.filters.forward_auth, services)
        table.c.mirror.service = _asked(self, wanted.filters.mirror, services)
    route.filters = (<FilterTable>self.filters[key]).c


cdef object _put_listeners(
    Snapshot self, tuple listeners, numbering, dict listening, dict services, dict gateways
):
    """Fill in listeners; their descriptors become the workers' with the snapshot."""
    cdef RouteTables tables = self.route_tables
    cdef listener_t *listener
    cdef int *fds
    cdef Py_ssize_t i
    cdef Py_ssize_t n_fds = _total(list(listening.values()))
    self.c.n_listeners = <uint32_t>len(listeners)
    self.c.listeners = <listener_t *>array_new(len(listeners), sizeof(listener_t))
    self.c.fds = <int *>array_new(n_fds, sizeof(int))
    fds = self.c.fds
    memset(self.c.drains_of_slot, 1, sizeof(self.c.drains_of_slot))     # those that are gone
    for i, wanted in enumerate(listeners):
        listener = &self.c.listeners[i]
        put_address(&listener.address, wanted.address, wanted.port)
        listener.wildcard = not any(resolve(wanted.address, wanted.port).packed)
        listener.slot = numbering.listeners[wanted.key]
        listener.fds = fds
        for descriptor in listening[wanted.key]:
            fds[0] = descriptor
            fds += 1
        if wanted.http:
            listener.protocol = PROTOCOL_HTTP
            listener.gateway = &self.c.gateways[<Py_ssize_t>gateways[wanted.target]]
        else:
            listener.protocol = PROTOCOL_UDP if wanted.udp else PROTOCOL_TCP
            listener.service = &self.c.services[<Py_ssize_t>services[wanted.target]]
        self.c.drains_of_slot[listener.slot] = bool(wanted.draining)
        self.c.listener_of_slot[listener.slot] = listener
    tables.put_listeners(self.c.listeners, listeners)


cdef object _put_cuts(Snapshot self, list cuts):
    """Fill in what is to be cut."""
    cdef Py_ssize_t i
    self.c.n_cuts = <uint32_t>len(cuts)
    self.c.cuts = <cut_t *>array_new(len(cuts), sizeof(cut_t))
    for i, (generation, kind, slot) in enumerate(cuts):
        self.c.cuts[i].generation = generation
        self.c.cuts[i].kind = kind
        self.c.cuts[i].slot = slot
