"""Our own answers: a status, one line of text, and whether the connection goes on."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.forward cimport ending_t
from fastpath.http.http1 cimport refusal_t

cdef enum:
    ANSWER_SIZE_MAX = 512

# The status that a refusal is answered with.
cdef uint16_t answer_status(refusal_t why) noexcept nogil

# Writes a complete response; its size. `is_head`: the answer to HEAD has no body.
cdef size_t answer_write(uint8_t *out, refusal_t why, bint is_head, ending_t ending) noexcept nogil
