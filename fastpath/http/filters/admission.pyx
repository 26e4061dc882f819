"""Filters that let a request pass or not."""

from fastpath.atomics cimport add_shared
from fastpath.http.filters.table cimport HAS_ALLOW
from fastpath.http.framing cimport BODY_LENGTH
from fastpath.http.http1 cimport REFUSE_BODY_SIZE, REFUSE_IN_FLIGHT, REFUSE_SOURCE
from fastpath.proxy.prefixes cimport prefixes_have


cdef int admission_source(const filters_t *filters, const sockaddr_any_t *source) noexcept nogil:
    if prefixes_have(&filters.denied, source):
        return -REFUSE_SOURCE
    if filters.kinds & HAS_ALLOW and not prefixes_have(&filters.allowed, source):
        return -REFUSE_SOURCE
    return 0


cdef int admission_enter(loop_t *loop, client_t *client, uint32_t most) noexcept nogil:
    # A request that has waited comes here again: by the same route, or, by new tables, by another.
    if client.is_in_flight and client.in_flight_slot == client.route_slot:
        return 0
    admission_leave(loop, client)
    if add_shared(&loop.common.in_flight[client.route_slot], 1) > most:
        add_shared(&loop.common.in_flight[client.route_slot], -1)
        return -REFUSE_IN_FLIGHT
    client.in_flight_slot = client.route_slot
    client.is_in_flight = True
    return 0


cdef void admission_leave(loop_t *loop, client_t *client) noexcept nogil:
    if client.is_in_flight:
        client.is_in_flight = False
        add_shared(&loop.common.in_flight[client.in_flight_slot], -1)


cdef int admission_body(body_t *body, uint64_t size_max) noexcept nogil:
    if body.kind == BODY_LENGTH and body.remaining > size_max:
        return -REFUSE_BODY_SIZE
    if body.size_max == 0 or body.size_max > size_max:
        body.size_max = size_max
    return 0
