"""Counters of requests: one block a worker, which alone writes; the engine adds them up.

Requests are counted by (route, method, status) in a hash table of fixed size, so that no client can
make it grow: what finds no place is counted in `overflow`. How long requests took is kept for the
first routes that have some, and together for those that come after them.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_ROUTES
from fastpath.http.http1 cimport REFUSALS

cdef enum:
    REQUEST_CELLS = 8192        # a power of two
    DURATION_BUCKETS = 14       # the last one has no bound
    DURATIONS = 1024            # routes whose durations are kept apart

# What became of the copies of requests (mirror.pxd); names in totals.pyx.
cdef enum copy_result_t:
    COPY_ANSWERED
    COPY_FAILED                 # no backend, or no answer that makes sense, in time
    COPY_TOO_LONG               # its body
    COPY_TOO_MANY               # others were under way
    COPY_UNSENT                 # its request has not gone completely either
    COPY_RESULTS

cdef struct request_cell_t:
    uint64_t key                # 0: free
    uint64_t n

cdef struct duration_t:
    uint64_t buckets[DURATION_BUCKETS]
    uint64_t sum_us
    uint64_t spare

cdef struct retry_count_t:
    uint64_t begun
    uint64_t denied             # by the budget

cdef struct http_counters_t:
    uint64_t refused[<int>REFUSALS]
    uint64_t overflow
    uint64_t copies[<int>COPY_RESULTS]
    int64_t waiting             # requests that wait for a place now (queue.pxd)
    int64_t checking            # … for their credentials to be checked (checks.pxd)
    uint64_t checks             # credentials that were given to Python
    request_cell_t requests[REQUEST_CELLS]
    uint64_t duration_of_route[MAX_ROUTES]  # an index of `durations`; 0: none of its own (yet)
    uint64_t n_durations
    duration_t durations[DURATIONS + 1]     # the first one is of all that have none of their own
    retry_count_t retries[MAX_ROUTES]

cdef inline uint32_t request_key(uint16_t route_slot, uint8_t method,
                                 uint16_t status) noexcept nogil:
    """A cell's key; never 0. The status has 10 bits, the method 4, the route 16."""
    return <uint32_t>1 << 30 | <uint32_t>route_slot << 14 | <uint32_t>method << 10 | status

# A response to a request of this route was completed, or broken off.
cdef void count_request(http_counters_t *self, uint16_t route_slot, uint8_t method, uint16_t status,
                        uint64_t duration_us) noexcept nogil
