"""redirect: the client is told another place to ask at (RFC 9110, 15.4)."""

from fastpath.abi cimport route_t
from fastpath.http.answers cimport reply_t
from fastpath.http.filters.table cimport redirect_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t

# Fills in the reply; -REFUSE_REDIRECT, or -REFUSE_TARGET_SIZE when the new target is too long.
cdef int redirect_reply(reply_t *reply, const redirect_t *redirect, const request_t *request,
                        const route_t *route, const client_t *client) noexcept nogil
