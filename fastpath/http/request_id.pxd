"""X-Request-Id: what one request is called in every log on its way.

Random bits that a worker draws when it begins, and a count: unique, and no secret.
"""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.http.http1 cimport head_t
from fastpath.http.request cimport request_t

cdef enum:
    ID_HALF = 16                # hex digits of 8 bytes

cdef struct request_ids_t:      # one worker's
    uint8_t prefix[ID_HALF]
    uint64_t last               # begins anywhere

# Draw the random bits: FP_OK, or FP_FULL when the kernel gives none.
cdef int request_ids_init(request_ids_t *self) noexcept nogil

# Give a request its id: a trusted proxy's, if it is one that anybody would log; else one of ours.
cdef void request_identify(request_t *request, const head_t *head, const uint8_t *data,
                           request_ids_t *ids) noexcept nogil
