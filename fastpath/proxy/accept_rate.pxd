"""How fast a service's connections may begin, by all workers together; the rest wait.

The generic cell rate algorithm (ITU-T I.371, annex A): one shared word says when the next one is
due if they come evenly, and one that comes up to RATE_AHEAD_MS before that conforms. So the rate is
exact in the long run whenever a worker looks, and a service that was quiet takes `rate / 10 + 1`
connections at once.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.abi cimport service_t
from fastpath.loop cimport loop_t


cdef enum:
    RATE_AHEAD_MS = 100         # a worker may look this late, too, without loss: several ticks


# 0: one connection may begin, and is charged; else milliseconds to wait before asking again.
# `due_ns` is what its callers share.
cdef uint32_t rate_wait_ms(uint64_t *due_ns, uint64_t now_ns, uint32_t rate) noexcept nogil

# The same for a service's connections. 0 if it has no rate, and for NULL.
cdef uint32_t accept_wait_ms(loop_t *loop, const service_t *service) noexcept nogil
# The one that accept_wait_ms said may begin did not: nobody was there, or he was turned away.
cdef void accept_unused(loop_t *loop, const service_t *service) noexcept nogil
