"""Content codings (RFC 9110, 8.4.1) as streams: gzip (RFC 1952), br (RFC 7932), zstd (RFC 8878).

The libraries are looked for when the module is imported (dlopen); an encoding whose library is not
there is not available, and encoder_begin says no. Windows are small: what one stream takes is
ENCODER_MEMORY at most, and clients need less to decode it.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum encoding_t:           # in the order of fastpath.filters.ENCODINGS
    ENCODING_NONE = 0
    ENCODING_GZIP
    ENCODING_BR
    ENCODING_ZSTD
    ENCODINGS

cdef enum encode_t:             # what encoder_run is asked for
    ENCODE_GO                   # take bytes; what comes out of them may come later
    ENCODE_FLUSH                # … and give out all that can be decoded from them
    ENCODE_END                  # … for they are the last ones

# What encoder_run returns.
cdef enum:
    ENCODE_DONE = 0             # everything was taken, and what was asked for is done
    ENCODE_FULL = 1             # there is more to give out: ask for the same with more room
    ENCODE_FAILED = -1          # no memory, and the stream is spoilt

cdef struct z_stream_t:         # of zlib.h
    const uint8_t *next_in
    uint32_t avail_in
    unsigned long total_in
    uint8_t *next_out
    uint32_t avail_out
    unsigned long total_out
    const char *msg
    void *state
    void *zalloc
    void *zfree
    void *opaque
    int data_type
    unsigned long adler
    unsigned long reserved

cdef struct encoder_t:          # may not be moved
    void *context               # owned, of br's and zstd's library
    z_stream_t deflating        # of gzip
    uint8_t encoding            # encoding_t; ENCODING_NONE: nothing is held

cdef bint encoder_available(uint8_t encoding) noexcept nogil

# Begins a stream; False, and nothing is held, when it cannot be.
cdef bint encoder_begin(encoder_t *self, uint8_t encoding) noexcept nogil

# Begins another stream with the memory of the last one, wherever that had got to; False, and
# nothing is held, when it cannot be.
cdef bint encoder_again(encoder_t *self) noexcept nogil

# Gives back what is held; harmless when nothing is.
cdef void encoder_end(encoder_t *self) noexcept nogil

# Takes from data[0:size] and writes up to `room` bytes to `out`; all three advance. With
# ENCODE_FULL `room` is 0.
cdef int encoder_run(encoder_t *self, encode_t wanted, const uint8_t **data, size_t *size,
                     uint8_t *out, size_t *room) noexcept nogil
