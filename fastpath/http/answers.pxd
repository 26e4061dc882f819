"""Our own answers: a status, one line of text, and whether the connection goes on."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport text_t
from fastpath.http.forward cimport ending_t
from fastpath.http.http1 cimport TARGET_SIZE_MAX, refusal_t

cdef enum:
    # With a head and reply_t.fields they fit into FORWARD_SIZE_MAX bytes.
    ANSWER_BODY_MAX = 16384
    ANSWER_HEAD_MAX = 512
    CORS_LINES_MAX = 2048       # of what a cors filter says to everybody
    REPLY_SIZE_MAX = TARGET_SIZE_MAX + 1536 + CORS_LINES_MAX

cdef struct answer_t:
    text_t head                 # without Connection and the empty line
    text_t body
    uint16_t status

# What a filter says of the answer that its refusal leads to in the same moment.
cdef struct reply_t:
    const answer_t *answer      # NULL: that of the refusal
    uint16_t fields_size
    uint8_t fields[REPLY_SIZE_MAX]      # field lines beside those of `answer`

cdef inline void reply_clear(reply_t *self) noexcept nogil:
    """The next answer is an ordinary one."""
    self.answer = NULL
    self.fields_size = 0

# What a refusal is answered with, unless a filter says otherwise.
cdef const answer_t *answer_of(refusal_t why) noexcept nogil

# Writes a complete response; its size. `is_head`: the answer to HEAD has no body.
cdef size_t answer_write(uint8_t *out, const answer_t *answer, const reply_t *reply, bint is_head,
                         ending_t ending) noexcept nogil
