"""How fast a service's connections may begin, by all workers together; the rest wait.

See fastpath.rate; a service's word is shared by its workers.
"""

from libc.stdint cimport uint32_t

from fastpath.abi cimport service_t
from fastpath.loop cimport loop_t


# 0: one connection may begin, and is charged; else milliseconds to wait before asking again. 0 if
# the service has no rate, and for NULL.
cdef uint32_t accept_wait_ms(loop_t *loop, const service_t *service) noexcept nogil
# The one that accept_wait_ms said may begin did not: nobody was there, or he was turned away.
cdef void accept_unused(loop_t *loop, const service_t *service) noexcept nogil
