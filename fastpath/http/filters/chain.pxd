"""A route's filters, one after the other, in the order that docs/reference/http.md has."""

from libc.stdint cimport uint8_t

from fastpath.abi cimport route_t, text_t
from fastpath.http.http1 cimport refusal_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# For a route with filters: what they do before a backend is chosen. They may change the request.
# 0, or -refusal_t; http_t.reply has what is special about the answer. FILTER_WAITS: the request is
# to come here again when it goes on, read anew.
cdef int filters_request(loop_t *loop, client_t *client, request_t *request,
                         const route_t *route) noexcept nogil

# For a route with filters, when `client.service_slot` is chosen: what those of the target do.
cdef void filters_target(client_t *client, request_t *request,
                         const route_t *route) noexcept nogil

# The head of a final response is complete in `client.head`: hides the fields that filters take out,
# and returns the lines that they put in, or NULL. From here on the body may go through a coder.
cdef const text_t *filters_response(loop_t *loop, client_t *client) noexcept nogil

# The lines that depend on the request, into that head; the end of them.
cdef uint8_t *filters_put(uint8_t *out, loop_t *loop, const client_t *client) noexcept nogil

# What the route's filters make of an answer of our own, `why` it is: it is in http_t.reply.
cdef void filters_answer(loop_t *loop, const client_t *client, refusal_t why) noexcept nogil

# The exchange is over, however it ended; harmless when it is said twice.
cdef void filters_done(loop_t *loop, client_t *client) noexcept nogil
