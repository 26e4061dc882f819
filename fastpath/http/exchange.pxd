"""One request's life: routed, sent to a backend, answered.

Everything here returns a step: what the connection does next, or -refusal_t, which the caller turns
into an answer of our own (exchange_answer).
"""

from fastpath.http.http1 cimport refusal_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

cdef enum step_t:
    STEP_WAIT = 0               # for an event or a timeout
    STEP_NEXT                   # the exchange is over, the connection goes on
    STEP_CLOSE                  # over, and so is the connection
    STEP_LINGER                 # the same, but the client may still be sending
    STEP_CUT                    # broken off: nobody may take what was sent for complete
    STEP_TUNNEL                 # a 101 was passed on
    STEP_AGAIN                  # inside of exchange.pyx only

# `client.head` is a complete request at the front of client.request's buffer.
cdef int exchange_start(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_CONNECTING: the backend's socket is connected; could not be, or not in time.
cdef int exchange_connected(loop_t *loop, client_t *client) noexcept nogil
cdef int exchange_refused(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_EXCHANGE: go on as far as it goes.
cdef int exchange_drive(loop_t *loop, client_t *client) noexcept nogil

# In CLIENT_EXCHANGE: nothing has moved for too long.
cdef int exchange_expired(loop_t *loop, client_t *client) noexcept nogil

# Answer by ourselves, from any state in which nothing of a response was sent yet; then, in
# CLIENT_ANSWER, go on writing.
cdef int exchange_answer(loop_t *loop, client_t *client, refusal_t why) noexcept nogil
cdef int exchange_answering(loop_t *loop, client_t *client) noexcept nogil

# The request and what became of it, into the counters.
cdef void exchange_count(loop_t *loop, const client_t *client) noexcept nogil
