"""Gateways and their routes, as the workers read them."""

from fastpath.abi cimport (
    gateway_t, listener_t, pattern_t, predicate_t, route_t, service_t, target_t, text_t,
)


cdef class RouteTables:
    cdef gateway_t *gateways    # all of this is owned
    cdef route_t *routes        # all gateways' in one array
    cdef target_t *targets      # all routes' in one array
    cdef predicate_t *predicates    # all routes' in one array
    cdef text_t *methods        # the same
    cdef pattern_t *patterns    # each once
    cdef text_t *hosts          # all listeners' in one array
    cdef list indexes           # RouteIndex of each gateway
    cdef list texts             # bytes that `texts` and patterns point to
    cdef dict pattern_of        # program -> index of `patterns`
    cdef Py_ssize_t n_routes
    cdef target_t *next_target
    cdef predicate_t *next_predicate
    cdef text_t *next_method

    cdef object put_all(self, tuple gateways, numbering, service_t *services, dict service_at)
    cdef object put_listeners(self, listener_t *listeners, tuple wanted)
    cdef object put_index(self, gateway_t *gateway)
    cdef object put_route(self, route_t *route, wanted)
    cdef object put_tries(self, route_t *route, wanted)
    cdef object put_targets(self, route_t *route, tuple wanted, service_t *services,
                            dict service_at)
    cdef object put_conditions(self, route_t *route, wanted)
    cdef object put_predicate(self, wanted)
    cdef object put_text(self, text_t *text, bytes value)
    cdef pattern_t *put_pattern(self, bytes program) except NULL
