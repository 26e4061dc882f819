"""mirror: a copy of a request goes to another service, and nobody waits for what that answers.

A copy is a client_t without a socket, whose exchange is like any other. What copies need of memory
and sockets is set aside for COPIES_MAX of them, so that they take nothing from clients. A copy is
made before its request goes, takes what comes of the body, and goes when all of the request has
gone to its backend; from then on it is on its own, for COPY_MS at most.
"""

from libc.stdint cimport uint16_t

from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# `client.request` is rendered, nothing of its body decoded: make a copy, if the route wants one.
cdef void mirror_copy(loop_t *loop, client_t *client) noexcept nogil

# All of the client's request has gone: its copy is on its own, and http_t.on_copy will come.
cdef void mirror_release(loop_t *loop, client_t *client) noexcept nogil

# A copy that is on its own is over; `client.status`: it was answered.
cdef void mirror_end(loop_t *loop, client_t *copy) noexcept nogil

# End those that a backend is answering; all for MAX_BACKENDS.
cdef void mirror_cut(loop_t *loop, uint16_t slot) noexcept nogil

cdef void mirror_forget(loop_t *loop, client_t *client) noexcept nogil


cdef inline void mirror_drop(loop_t *loop, client_t *client) noexcept nogil:
    """The client's request has not gone, and its copy will not; harmless without one."""
    if client.copy != NULL:
        mirror_forget(loop, client)
