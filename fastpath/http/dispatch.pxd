"""A request's way to a backend: understood, routed, given a socket.

Everything here returns a step_t, or -refusal_t, which the caller turns into an answer of our own.
"""

from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# `client.head` is a complete request at the front of client.request's buffer.
cdef int dispatch_request(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_CONNECTING: the backend's socket is connected; could not be, or not in time.
cdef int dispatch_connected(loop_t *loop, client_t *client) noexcept nogil
cdef int dispatch_refused(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_WAITING: there may be a place.
cdef int dispatch_called(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_CHECKING: there may be a verdict. Then the request goes the whole way again.
cdef int dispatch_checked(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_BACKOFF, which is over: the next try.
cdef int dispatch_resume(loop_t *loop, client_t *client) noexcept nogil

# An answer that is not for the client has been read: a request that was asked about goes on, and a
# copy of one is over.
cdef int dispatch_heard(loop_t *loop, client_t *client) noexcept nogil

# A copy of a request is on its own and goes now.
cdef int dispatch_copy(loop_t *loop, client_t *copy) noexcept nogil

# The backend closed before its response began: once more on another socket, if that is allowed.
cdef int dispatch_again(loop_t *loop, client_t *client) noexcept nogil
