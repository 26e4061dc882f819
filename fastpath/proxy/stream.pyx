"""One connection of a TCP service, and what is noted about it."""

from fastpath.abi cimport times_t
from fastpath.atomics cimport count

cdef extern from * nogil:
    int leading_zeros "__builtin_clzll" (unsigned long long)


cdef enum:
    CONNECT_FIRST_US = 250      # bounds of the first buckets, as in abi.pxd
    SESSION_FIRST_MS = 10


cdef uint32_t times_bucket(uint64_t value, uint64_t first) noexcept nogil:
    cdef uint64_t over
    cdef uint32_t bucket
    if value <= first:
        return 0
    # value <= first * 4^i just when (value - 1) / first has at most 2 * i bits.
    over = (value - 1) // first
    bucket = (64 - leading_zeros(over) + 1) // 2
    return min(bucket, <uint32_t>TIMES_COUNT - 1)


cdef void stream_connected(loop_t *loop, stream_t *stream) noexcept nogil:
    cdef times_t *times = &loop.counters.times[stream.pair.backend_slot]
    cdef uint64_t took_us = loop.now_us - stream.connecting_us
    stream.connected_us = loop.now_us
    count(&times.connect[times_bucket(took_us, CONNECT_FIRST_US)], 1)
    count(&times.connect_us, took_us)


cdef void stream_ended(loop_t *loop, const stream_t *stream) noexcept nogil:
    cdef times_t *times = &loop.counters.times[stream.pair.backend_slot]
    cdef uint64_t lasted_ms = (loop.now_us - stream.accepted_us) // 1000
    count(&times.session[times_bucket(lasted_ms, SESSION_FIRST_MS)], 1)
    count(&times.session_ms, lasted_ms)
    count(&loop.counters.services[stream.service_slot].ended[stream.pair.end], 1)


cdef void stream_rejected(loop_t *loop, const stream_t *stream, int reason) noexcept nogil:
    count(&loop.counters.rejected[reason], 1)
    count(&loop.counters.services[stream.service_slot].rejected[reason], 1)
