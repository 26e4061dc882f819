"""Requests that wait for a place: a service with a limit of connections has them taken."""

from fastpath.abi cimport service_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# The request wants to go to the service: STEP_GO; STEP_WAIT: it waits in CLIENT_WAITING until it is
# called or its time is up; or -REFUSE_QUEUE_FULL.
cdef int queue_enter(loop_t *loop, client_t *client, const service_t *service) noexcept nogil

# In CLIENT_WAITING, the client was called: STEP_GO or STEP_WAIT.
cdef int queue_called(loop_t *loop, client_t *client) noexcept nogil

# The request is over, or is not to wait any more: it leaves its place, and the next one is called.
# Harmless when it has none.
cdef void queue_leave(loop_t *loop, client_t *client) noexcept nogil
