"""Request and response, both ways; and answers of our own.

Everything here returns a step_t, or -refusal_t, which the caller turns into an answer of our own
(exchange_answer).
"""

from fastpath.http.http1 cimport refusal_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

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
