"""Whether and when a request is tried once more, nothing of a response having been sent."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# Whether the request does no harm when it arrives twice (RFC 9110, 9.2.2), and we still have all of
# it.
cdef bint is_repeatable(const client_t *client) noexcept nogil

# Whether the try that has come to nothing may be followed by another: `why` is a RETRY_* bit, or 0
# and `status` what the backend answered. Counts what the budget denies.
cdef bint retry_may(loop_t *loop, client_t *client, uint8_t why, uint16_t status) noexcept nogil

# Let go of the try; the next one is due when CLIENT_BACKOFF ends.
cdef void retry_begin(loop_t *loop, client_t *client) noexcept nogil
