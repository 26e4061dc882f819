"""Counters of requests."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.atomics cimport count, store_release

cdef enum:
    PROBES_MAX = 16
    HASH_SHIFT = 19             # leaves the 13 bits of REQUEST_CELLS

# In microseconds; requests that took at most this long. The last bucket takes the others.
DURATION_BOUNDS_US = (
    1000, 2000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000,
    10000000,
)

cdef uint64_t BOUNDS[DURATION_BUCKETS]


def _fill_bounds():
    """Fill the histogram's bounds, once at import."""
    assert len(DURATION_BOUNDS_US) == DURATION_BUCKETS - 1
    for i, bound in enumerate(DURATION_BOUNDS_US):
        BOUNDS[i] = bound
    BOUNDS[DURATION_BUCKETS - 1] = 0xFFFFFFFFFFFFFFFF


_fill_bounds()


cdef duration_t *duration_of(http_counters_t *self, uint16_t route_slot) noexcept nogil:
    cdef uint64_t at = self.duration_of_route[route_slot]
    if at == 0 and self.n_durations < DURATIONS:
        self.n_durations += 1
        at = self.n_durations
        store_release(&self.duration_of_route[route_slot], at)
    return &self.durations[at]


cdef void count_request(http_counters_t *self, uint16_t route_slot, uint8_t method, uint16_t status,
                        uint64_t duration_us) noexcept nogil:
    cdef uint32_t key = request_key(route_slot, method, status)
    cdef uint32_t at = (key * <uint32_t>2654435761) >> HASH_SHIFT
    cdef duration_t *duration = duration_of(self, route_slot)
    cdef int i, _probe
    for i in range(DURATION_BUCKETS):
        if duration_us <= BOUNDS[i]:
            count(&duration.buckets[i], 1)
            break
    count(&duration.sum_us, duration_us)
    for _probe in range(PROBES_MAX):
        if self.requests[at].key == key:
            count(&self.requests[at].n, 1)
            return
        if self.requests[at].key == 0:
            count(&self.requests[at].n, 1)
            store_release(&self.requests[at].key, key)
            return
        at = (at + 1) & (REQUEST_CELLS - 1)
    count(&self.overflow, 1)
