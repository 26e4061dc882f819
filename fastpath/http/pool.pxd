"""Sockets to backends: opened, kept alive between requests, closed."""

from fastpath.abi cimport backend_t, service_t
from fastpath.http.state cimport client_t, upstream_t
from fastpath.loop cimport loop_t

cdef enum:
    POOL_IDLE_MAX = 64          # for each backend and worker
    POOL_IDLE_MS = 60000

# An idle socket to the backend, now the client's; NULL: there is none that is alive and silent.
# Whatever has come while it was idle would be taken for the response to what is sent now. epoll has
# told of it by the beginning of this turn, unless the socket is idle only since then; so the kernel
# is asked in that case, and with `ask_kernel` always: for a request that cannot be sent again.
cdef upstream_t *pool_take(loop_t *loop, const backend_t *backend, client_t *client,
                           bint ask_kernel) noexcept nogil

# A new socket on its way to the backend for `client.upstream`: FP_OK, FP_FULL, FP_BAD, FP_PORTS.
cdef int pool_connect(loop_t *loop, const service_t *service, const backend_t *backend,
                      client_t *client) noexcept nogil

# Keep it for later requests, if its backend is still up and there is room; close it otherwise.
cdef void pool_park(loop_t *loop, upstream_t *upstream) noexcept nogil

# Close it, idle or in use.
cdef void pool_close(loop_t *loop, upstream_t *upstream) noexcept nogil

# Close idle ones of backends that are gone, down or elsewhere; all of them with `everything`.
cdef void pool_review(loop_t *loop, bint everything) noexcept nogil

# Close the longest idle ones until the clients' sockets and the idle ones are within the worker's
# part of the process's descriptors.
cdef void pool_limit(loop_t *loop) noexcept nogil
