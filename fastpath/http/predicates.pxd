"""What a route asks of a request beside host and path: its method, headers and query.

Headers: names without case; one that comes several times is one, its values joined by `, `; what is
taken out of requests is not there. Query: `%xx` and `+` are decoded, names have case, the first of
a name counts. `piagent.core.predicates` has the same rules.
"""

from libc.stdint cimport uint8_t

from fastpath.abi cimport conditions_t
from fastpath.http.http1 cimport head_t, span_t

cdef struct asked_t:            # what of a request counts for its route
    const uint8_t *host         # canonical
    const uint8_t *path         # canonical
    size_t host_size
    size_t path_size
    const head_t *head          # the method and the headers
    const uint8_t *data         # what the spans are of
    span_t query                # from its `?` on; size 0: there is none

cdef bint conditions_match(const conditions_t *self, const asked_t *asked) noexcept nogil
