"""cors: whose pages may read what the route answers (Fetch standard, 3.3).

The request's Origin is kept in `client.asker` when it may ask and is to be told so by name.
"""

from libc.stdint cimport uint8_t

from fastpath.http.answers cimport reply_t
from fastpath.http.filters.table cimport cors_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# For a request whose head is in `client.head`: 0, or -REFUSE_BUSY.
cdef int cors_note(loop_t *loop, client_t *client, const cors_t *cors) noexcept nogil

# After that: 0, or -REFUSE_PREFLIGHT for a request that only asks whether another one may come.
cdef int cors_preflight(const client_t *client, const cors_t *cors, reply_t *reply) noexcept nogil

# Writes the lines that every response has; the end of them. `exposes`: it is no preflight's.
cdef uint8_t *cors_put(uint8_t *out, const client_t *client, const cors_t *cors,
                       bint exposes) noexcept nogil

# The exchange is over; harmless when it is said twice.
cdef void cors_done(loop_t *loop, client_t *client) noexcept nogil
