"""How fast a service's connections may begin, by all workers together; the rest wait."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastpath.abi cimport service_t
from fastpath.atomics cimport add_shared, load_relaxed, replace_relaxed
from fastpath.loop cimport loop_t


cdef enum:
    NS_PER_S = 1000000000
    NS_PER_MS = 1000000


cdef inline uint64_t _interval_ns(uint32_t rate) noexcept nogil:
    return <uint64_t>NS_PER_S // rate


cdef uint32_t rate_wait_ms(uint64_t *due_ns, uint64_t now_ns, uint32_t rate) noexcept nogil:
    cdef uint64_t due = load_relaxed(due_ns)
    cdef uint64_t ahead = now_ns + <uint64_t>RATE_AHEAD_MS * NS_PER_MS
    while due <= ahead:
        if replace_relaxed(due_ns, &due, max(due, now_ns) + _interval_ns(rate)):
            return 0
    return <uint32_t>((due - ahead + NS_PER_MS - 1) // NS_PER_MS)


cdef uint32_t accept_wait_ms(loop_t *loop, const service_t *service) noexcept nogil:
    if service == NULL or service.accept_rate == 0:
        return 0
    return rate_wait_ms(
        &loop.common.accept_due_ns[service.slot], loop.now_us * 1000, service.accept_rate
    )


cdef void accept_unused(loop_t *loop, const service_t *service) noexcept nogil:
    if service != NULL and service.accept_rate > 0:
        add_shared(
            <int64_t *>&loop.common.accept_due_ns[service.slot],
            -<int64_t>_interval_ns(service.accept_rate),
        )
