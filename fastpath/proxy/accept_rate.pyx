"""How fast a service's connections may begin, by all workers together; the rest wait."""

from libc.stdint cimport int64_t, uint32_t

from fastpath.abi cimport service_t
from fastpath.atomics cimport add_shared
from fastpath.loop cimport loop_t
from fastpath.rate cimport rate_interval_ns, rate_wait_ms


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
            -<int64_t>rate_interval_ns(service.accept_rate),
        )
