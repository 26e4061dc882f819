"""A session's socket to its backend.

It is connected, so that the kernel takes that backend's answers only, and tells of what it or a
router on the way refuses. A backend that refuses is noted in the session as tried: the next choice
gets what comes next.
"""

from fastpath.abi cimport backend_t
from fastpath.loop cimport event_fn, loop_t
from fastpath.proxy.sessions cimport session_t

# Connect to the next choice; `on_answers` is called when it has sent something or refused. FP_OK,
# FP_BAD: nobody is left, FP_FULL: no descriptor, FP_PORTS: no port of ours is left.
cdef int upstream_connect(
    loop_t *loop, session_t *session, event_fn on_answers
) noexcept nogil
# The backend has sent something.
cdef void upstream_answered(loop_t *loop, session_t *session) noexcept nogil
# It refused, or cannot be reached: close the socket.
cdef void upstream_refused(loop_t *loop, session_t *session) noexcept nogil
# Close the socket, if there is one.
cdef void upstream_close(loop_t *loop, session_t *session) noexcept nogil
