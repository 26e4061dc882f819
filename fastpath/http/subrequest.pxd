"""A question to another service before a request goes to its own (the filter forward_auth).

The client's exchange carries it: while question_t.is_open the client is one that has sent the
question, a GET without a body, so that sockets, queues, times and retries are those of any request.
What it really sent is put aside; of its body nothing is read.
"""

from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# What question_answered returns.
cdef enum verdict_t:
    VERDICT_INTERIM             # no answer yet
    VERDICT_YES                 # question_hear
    VERDICT_NO                  # it is for the client: `client.head` is as it was
    VERDICT_BAD                 # no answer that makes sense

# `client.request` is rendered, nothing of its body decoded: ask first. The question's head is in
# `client.question`; from now on the client's fields are the question's.
cdef void question_ask(loop_t *loop, client_t *client) noexcept nogil

# An answer's head is complete in `client.head`. Whatever a copy (mirror.pxd) is answered in the end
# is VERDICT_YES or _BAD.
cdef verdict_t question_answered(loop_t *loop, client_t *client) noexcept nogil

# After VERDICT_YES: read the answer's rest. FP_DONE, FP_AGAIN (an event will come), FP_BAD.
cdef int question_hear(loop_t *loop, client_t *client) noexcept nogil

# After that: `client.request` and the client's fields are the request's again, with what the answer
# adds. Whether its service is still there.
cdef bint question_granted(loop_t *loop, client_t *client) noexcept nogil

# After VERDICT_NO: the client's fields are its own again, and nothing more is read of its body.
cdef void question_refused(loop_t *loop, client_t *client) noexcept nogil

cdef void question_free(loop_t *loop, client_t *client) noexcept nogil


cdef inline void question_drop(loop_t *loop, client_t *client) noexcept nogil:
    """No question any more, at whatever point it was; the fields are the client's own."""
    if client.question != NULL:
        question_free(loop, client)
