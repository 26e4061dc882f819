"""Encoders that responses take turns with, and what comes out of them, framed as chunks.

There are CODERS_MAX in a worker, for all its responses together. One takes up to 0.6 MiB of the
library's and CODER_SIZE of ours; a few are kept for the next response.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from fastpath.abi cimport BUFFER_SIZE
from fastpath.http.encoders cimport ENCODINGS, encoder_t
from fastpath.memory.slab cimport slab_t

cdef enum:
    CODERS_MAX = 32             # responses of one worker that are compressed at a time
    CODERS_KEPT = 2             # idle ones of each encoding

cdef struct coder_t:
    encoder_t encoder
    coder_t *next               # idle ones of the same encoding
    uint16_t filled             # bytes that came out and are in no chunk yet
    uint16_t start              # a chunk that waits to be written: out[start:end]
    uint16_t end
    uint8_t operation           # encode_t: what is asked for until it is done
    bint is_dirty               # not all that went in has come out
    bint is_done                # the stream has its end
    bint has_trailers           # they follow, and bring the last chunk
    uint8_t out[BUFFER_SIZE]

cdef struct coder_counters_t:   # of one encoding, but for `n_crowded` counted in `coders_t`
    uint64_t n                  # responses
    uint64_t bytes_in
    uint64_t bytes_out          # without the framing

cdef struct coders_t:
    slab_t memory
    coder_t *idle[<int>ENCODINGS]
    uint8_t n_idle[<int>ENCODINGS]
    coder_counters_t counters[<int>ENCODINGS]
    uint64_t n_crowded          # responses that there was no coder for
    int64_t n_active            # coders in use

# FP_OK or FP_FULL.
cdef int coders_init(coders_t *self) noexcept nogil
# All must have been given back.
cdef void coders_free(coders_t *self) noexcept nogil

# One at the beginning of a body, or NULL.
cdef coder_t *coder_get(coders_t *self, uint8_t encoding) noexcept nogil
cdef void coder_put(coders_t *self, coder_t *coder) noexcept nogil

# Takes from data[0:size], which advance, until a chunk is complete or all is taken. 0, or -1 when
# the encoder has failed. No chunk may wait.
cdef int coder_run(coders_t *self, coder_t *coder, const uint8_t **data,
                   size_t *size) noexcept nogil
