"""Which of a route's targets gets a request.

A route's turns are the fractions of n / phi, in 32 bits: at any moment they have filled the circle
about as evenly as can be (Knuth, TAOCP 3, 6.4, theorem S). So a target with a part of the circle is
never more than a handful of requests ahead or behind, and the gaps between its requests differ
little. No target has a counter, and no request a division.
"""

from libc.stdint cimport uint32_t

from fastpath.http.state cimport http_of

cdef enum:
    GOLDEN = 0x9E3779B9         # 2^32 / phi
    APART = 0xC13FA9A9          # 2^32 / the plastic number: workers begin at different places


cdef const target_t *target_next(loop_t *loop, const route_t *route) noexcept nogil:
    cdef uint32_t *turns = &http_of(loop).turns[route.slot]
    cdef uint32_t turn
    cdef int i = 0
    if route.n_targets <= 1:
        return route.targets if route.n_targets else NULL
    turn = turns[0] + loop.index * <uint32_t>APART
    turns[0] += <uint32_t>GOLDEN
    while turn > route.targets[i].last:     # the last one's is 2^32 - 1
        i += 1
    return &route.targets[i]
