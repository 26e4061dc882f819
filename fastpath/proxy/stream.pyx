"""One connection of a TCP service, and what is noted about it."""

from libc.string cimport memset

from fastpath.abi cimport FP_OK, log_record_t, times_t
from fastpath.atomics cimport count, exchange
from fastpath.memory.ring cimport ring_drop, ring_put
from fastpath.sys_linux cimport eventfd_write

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


cdef void _log(loop_t *loop, const stream_t *stream, uint8_t how, bint rejected) noexcept nogil:
    """Keep a record for Python, and wake it if it is not at it already."""
    cdef log_record_t record
    memset(&record, 0, sizeof(record))
    record.client = stream.client_address
    record.local = stream.local_address
    record.accepted_us = stream.accepted_us
    record.ended_us = loop.now_us
    if stream.connected_us != 0:
        record.connect_us = stream.connected_us - stream.connecting_us
        record.has_backend = True
        record.backend_slot = stream.pair.backend_slot
    record.bytes_in = stream.pair.inward.moved
    record.bytes_out = stream.pair.outward.moved
    record.service_slot = stream.service_slot
    record.how = how
    record.rejected = rejected
    if ring_put(&loop.log, &record) != FP_OK:
        ring_drop(&loop.log)
    # Not looked at first: a load may come before the store that put the record in, and a reader who
    # asks in between would neither see the record nor be woken. An exchange is in order with both.
    if exchange(&loop.common.log_wanted, 0):
        eventfd_write(loop.common.log_wake, 1)


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
    if stream.logs:
        _log(loop, stream, stream.pair.end, False)


cdef void stream_rejected(loop_t *loop, const stream_t *stream, int reason) noexcept nogil:
    count(&loop.counters.rejected[reason], 1)
    count(&loop.counters.services[stream.service_slot].rejected[reason], 1)
    if stream.logs:
        _log(loop, stream, <uint8_t>reason, True)
