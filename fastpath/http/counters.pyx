"""Counters of requests, and how the engine's stats() shows them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.atomics cimport count, load_acquire, load_relaxed, store_release

from fastpath.http.answers import REFUSAL_NAMES

cdef enum:
    KEY_USED = 1 << 30
    PROBES_MAX = 16

# In microseconds; requests that took at most this long. The last bucket takes the others.
DURATION_BOUNDS_US = (
    1000, 2000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000,
    10000000,
)
METHOD_NAMES = (
    "other", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
)

cdef uint64_t BOUNDS[DURATION_BUCKETS]


def _fill_bounds():
    """Fill the histogram's bounds, once at import."""
    assert len(DURATION_BOUNDS_US) == DURATION_BUCKETS - 1
    for i, bound in enumerate(DURATION_BOUNDS_US):
        BOUNDS[i] = bound
    BOUNDS[DURATION_BUCKETS - 1] = 0xFFFFFFFFFFFFFFFF


_fill_bounds()


cdef void count_request(http_counters_t *self, uint16_t route_slot, uint8_t method, uint16_t status,
                        uint64_t duration_us) noexcept nogil:
    cdef uint32_t key = KEY_USED | <uint32_t>route_slot << 14 | <uint32_t>method << 10 | status
    cdef uint32_t at = (key * <uint32_t>2654435761) >> 19
    cdef duration_t *duration = &self.durations[route_slot]
    cdef int i
    for i in range(DURATION_BUCKETS):
        if duration_us <= BOUNDS[i]:
            count(&duration.buckets[i], 1)
            break
    count(&duration.sum_us, duration_us)
    for i in range(PROBES_MAX):
        if self.requests[at].key == key:
            count(&self.requests[at].n, 1)
            return
        if self.requests[at].key == 0:
            count(&self.requests[at].n, 1)
            store_release(&self.requests[at].key, key)
            return
        at = (at + 1) & (REQUEST_CELLS - 1)
    count(&self.overflow, 1)


cdef class HttpTotals:
    """Adds up the counters of workers."""

    cdef dict requests          # route slot -> {(method, status): n}
    cdef dict durations         # route slot -> [buckets…, sum in microseconds]
    cdef dict refused
    cdef object overflow

    def __init__(self):
        self.requests = {}
        self.durations = {}
        self.refused = dict.fromkeys(REFUSAL_NAMES[1:], 0)
        self.overflow = 0

    cdef void add(self, http_counters_t *counters, slots):
        """Add one worker's, as far as they are of these route slots."""
        cdef uint64_t key
        cdef int i, k
        for i in range(1, len(REFUSAL_NAMES)):
            self.refused[REFUSAL_NAMES[i]] += load_relaxed(&counters.refused[i])
        self.overflow += load_relaxed(&counters.overflow)
        for i in range(REQUEST_CELLS):
            key = load_acquire(&counters.requests[i].key)
            if key != 0:
                by = self.requests.setdefault(key >> 14 & 0xFFFF, {})
                cell = METHOD_NAMES[key >> 10 & 15], key & 1023
                by[cell] = by.get(cell, 0) + load_relaxed(&counters.requests[i].n)
        for slot in slots:
            sums = self.durations.setdefault(slot, [0] * (DURATION_BUCKETS + 1))
            k = slot
            for i in range(DURATION_BUCKETS):
                sums[i] += load_relaxed(&counters.durations[k].buckets[i])
            sums[DURATION_BUCKETS] += load_relaxed(&counters.durations[k].sum_us)
