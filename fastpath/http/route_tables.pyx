"""Python's gateways and routes -> what the workers read.

Off-line work, under the interpreter: it may take its time and raise.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastpath.abi cimport (
    HASH_COOKIE, HASH_HEADER, HOST_ANY, HOST_EXACT, HOST_WILDCARD, RETRY_STATUS_MIN, conditions_t,
)
from fastpath.http.route_index cimport RouteIndex
from fastpath.table_parts cimport array_new

from fastpath.conditions import METHODS, parts_of
from fastpath.tables import RETRY_REASONS

_METHOD_BITS = {name: 1 << number for number, name in enumerate(METHODS) if name}


cdef class RouteTables:
    """Owns the gateways and routes of one snapshot."""

    def __cinit__(self, tuple gateways):
        """Set memory aside for these."""
        routes = [route for each in gateways for route in each.routes]
        programs = {route.program for route in routes}
        n_targets = n_predicates = n_methods = 0
        for route in routes:
            n_targets += len(route.targets)
            n_predicates += len(route.headers) + len(route.query)
            n_methods += len(route.methods)
            programs.update(one.program for one in (*route.headers, *route.query))
        self.texts = []
        self.indexes = []
        self.pattern_of = {}
        self.gateways = <gateway_t *>array_new(len(gateways), sizeof(gateway_t))
        self.routes = <route_t *>array_new(len(routes), sizeof(route_t))
        self.targets = <target_t *>array_new(n_targets, sizeof(target_t))
        self.predicates = <predicate_t *>array_new(n_predicates, sizeof(predicate_t))
        self.methods = <text_t *>array_new(n_methods, sizeof(text_t))
        self.patterns = <pattern_t *>array_new(len(programs), sizeof(pattern_t))
        self.n_routes = len(routes)
        self.next_target = self.targets
        self.next_predicate = self.predicates
        self.next_method = self.methods

    def __dealloc__(self):
        free(self.gateways)
        free(self.routes)
        free(self.targets)
        free(self.predicates)
        free(self.methods)
        free(self.patterns)
        free(self.hosts)

    cdef object put_all(self, tuple gateways, numbering, service_t *services, dict service_at):
        """Fill it in; `service_at`: name -> index of `services`."""
        cdef gateway_t *gateway
        cdef route_t *route = self.routes
        cdef Py_ssize_t i
        for i, wanted in enumerate(gateways):
            gateway = &self.gateways[i]
            self.put_text(&gateway.name, wanted.name.encode())
            gateway.slot = numbering.gateways[wanted.name]
            gateway.any_depth = wanted.any_depth
            gateway.keeps_slashes = wanted.keeps_slashes
            gateway.refuses_slash = wanted.refuses_slash
            gateway.header_timeout_ms = wanted.header_timeout_ms
            gateway.body_idle_timeout_ms = wanted.body_idle_timeout_ms
            gateway.keepalive_timeout_ms = wanted.keepalive_timeout_ms
            gateway.tunnel_idle_timeout_ms = wanted.tunnel_idle_timeout_ms
            gateway.routes = route
            gateway.n_routes = <uint32_t>len(wanted.routes)
            for each in wanted.routes:
                route.slot = numbering.routes[wanted.name, each.name]
                self.put_route(route, each)
                self.put_tries(route, each)
                self.put_targets(route, each.targets, services, service_at)
                route += 1
            self.put_index(gateway)

    cdef object put_listeners(self, listener_t *listeners, tuple wanted):
        """Fill in which hosts the listeners serve; once."""
        cdef Py_ssize_t i
        cdef text_t *host
        n_hosts = sum([len(each.hosts) for each in wanted])
        self.hosts = host = <text_t *>array_new(n_hosts, sizeof(text_t))
        for i, each in enumerate(wanted):
            listeners[i].hosts = host
            listeners[i].n_hosts = <uint16_t>len(each.hosts)
            for name in each.hosts:
                self.put_text(host, name.removeprefix("*").encode())
                host += 1

    cdef object put_index(self, gateway_t *gateway):
        cdef RouteIndex index = RouteIndex()
        index.build(gateway.routes, gateway.n_routes)
        self.indexes.append(index)
        gateway.index = &index.c

    cdef object put_route(self, route_t *route, wanted):
        """Fill in all of a route but its slot and its targets."""
        self.put_text(&route.name, wanted.name.encode())
        self.put_text(&route.path, wanted.path.encode())
        if wanted.host.startswith("*."):
            route.host_kind = HOST_WILDCARD
            self.put_text(&route.host, wanted.host[1:].encode())
        else:
            route.host_kind = HOST_EXACT if wanted.host else HOST_ANY
            self.put_text(&route.host, wanted.host.encode())
        route.exact = wanted.exact
        if wanted.program:
            route.pattern = self.put_pattern(wanted.program)
        self.put_conditions(route, wanted)
        route.request_timeout_ms = wanted.request_timeout_ms
        route.backend_timeout_ms = wanted.backend_timeout_ms

    cdef object put_tries(self, route_t *route, wanted):
        """Fill in when a request is tried again, and by what clients stay at a backend."""
        if wanted.retries is not None:
            route.retries.attempts = wanted.retries.attempts
            route.retries.backoff_ms = wanted.retries.backoff_ms
            for reason in wanted.retries.on:
                route.retries.on |= 1 << RETRY_REASONS.index(reason)
            for status in wanted.retries.statuses:
                place, bit = divmod(status - RETRY_STATUS_MIN, 64)
                route.retries.statuses[<int>place] |= <uint64_t>1 << <int>bit
        if wanted.sticky is not None:
            self.put_text(&route.cookie, wanted.sticky.cookie.encode())
            route.cookie_ttl_s = wanted.sticky.ttl_s
        if wanted.hash_on is not None:
            self.put_text(&route.hash_name, wanted.hash_on.name.encode())
            route.hash_kind = HASH_COOKIE if wanted.hash_on.cookie else HASH_HEADER

    cdef object put_targets(self, route_t *route, tuple wanted, service_t *services,
                            dict service_at):
        """Fill in a route's targets, with their parts of the turns."""
        total = sum([each.weight for each in wanted])
        before = 0
        route.targets = self.next_target
        for each in wanted:
            if each.weight == 0:
                continue
            before += each.weight
            self.next_target.last = (before << 32) // total - 1
            if each.service:
                self.next_target.service = &services[<Py_ssize_t>service_at[each.service]]
            self.next_target += 1
            route.n_targets += 1

    cdef object put_conditions(self, route_t *route, wanted):
        cdef conditions_t *conditions = &route.conditions
        conditions.predicates = self.next_predicate
        conditions.n_headers = <uint8_t>len(wanted.headers)
        conditions.n_query = <uint8_t>len(wanted.query)
        for one in (*wanted.headers, *wanted.query):
            self.put_predicate(one)
        conditions.methods = self.next_method
        for method in wanted.methods:
            if method in _METHOD_BITS:
                conditions.method_bits |= <uint16_t>_METHOD_BITS[method]
            else:
                self.put_text(self.next_method, method.encode())
                self.next_method += 1
                conditions.n_methods += 1

    cdef object put_predicate(self, wanted):
        self.put_text(&self.next_predicate.name, wanted.name.encode())
        self.put_text(&self.next_predicate.value, wanted.value)
        if wanted.program:
            self.next_predicate.pattern = self.put_pattern(wanted.program)
        self.next_predicate += 1

    cdef object put_text(self, text_t *text, bytes value):
        """Point to the text's bytes, which these tables keep."""
        self.texts.append(value)
        text.data = <const uint8_t *>value
        text.size = <uint32_t>len(value)

    cdef pattern_t *put_pattern(self, bytes program) except NULL:
        """A compiled pattern, one for all who have the same."""
        cdef pattern_t *pattern
        cdef bytes classes, accepts, table
        cdef Py_ssize_t at = self.pattern_of.setdefault(program, len(self.pattern_of))
        pattern = &self.patterns[at]
        if pattern.table == NULL:
            parts = parts_of(program)
            classes, accepts, table = parts.classes, parts.accepts, parts.table.tobytes()
            self.texts.extend((classes, accepts, table))
            pattern.n_states = parts.n_states
            pattern.n_classes = parts.n_classes
            pattern.first = parts.first
            pattern.classes = <const uint8_t *>classes
            pattern.accepts = <const uint8_t *>accepts
            # The data of `bytes` begins at a multiple of 4 at least.
            pattern.table = <const uint16_t *><const uint8_t *>table
        return pattern
