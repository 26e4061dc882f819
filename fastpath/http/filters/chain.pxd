"""A route's filters, one after the other, in the order that docs/reference/http.md has."""

from fastpath.abi cimport route_t, text_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# For a route with filters: what they do before a backend is chosen. They may change the request.
# 0, or -refusal_t; http_t.reply has what is special about the answer.
cdef int filters_request(loop_t *loop, client_t *client, request_t *request,
                         const route_t *route) noexcept nogil

# The head of a final response is complete in `client.head`: hides the fields that filters take out,
# and returns the lines that they put in, or NULL.
cdef const text_t *filters_response(loop_t *loop, client_t *client) noexcept nogil

# The exchange is over, however it ended; harmless when it is said twice.
cdef void filters_done(loop_t *loop, client_t *client) noexcept nogil
