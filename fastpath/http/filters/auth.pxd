"""basic_auth: who asks has to say a name and its password (RFC 7617).

Passwords are hashed so that checking one takes long: Python does that (fastpath.verifying), not a
worker. What it found is remembered (credentials.pxd), so that is for the first request only; that
one waits, and then goes the whole way again by the tables of then.
"""

from libc.stdint cimport uint8_t

from fastpath.abi cimport route_t
from fastpath.http.filters.table cimport auth_t
from fastpath.http.http1 cimport refusal_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

cdef enum:
    FILTER_WAITS = 1            # a filter's answer beside 0 and -refusal_t

# For a request whose head is in `client.head`: 0, -refusal_t, or FILTER_WAITS: it is in
# CLIENT_CHECKING until auth_heard.
cdef int auth_check(loop_t *loop, client_t *client, const auth_t *auth,
                    const route_t *route) noexcept nogil

# Whether the request has waited at this route, so what comes before has let it pass already.
cdef inline bint auth_waited(const client_t *client, const route_t *route) noexcept nogil:
    return (client.check != NULL and client.check.route_slot == route.slot
            and client.check.route_born == route.born)

# In CLIENT_CHECKING: whether there is a verdict.
cdef bint auth_heard(const client_t *client) noexcept nogil

# The lines that a refusal has because of it; the end of them.
cdef uint8_t *auth_put(uint8_t *out, const auth_t *auth, refusal_t why) noexcept nogil

# The request waits no more; harmless when it did not.
cdef void auth_done(loop_t *loop, client_t *client) noexcept nogil
