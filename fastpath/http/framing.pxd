"""Where a body ends (RFC 9112, 6 and 7): a length in the head, or chunks decoded as they stream."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.http.http1 cimport REFUSE_BODY_SIZE, REFUSE_CHUNK, head_t, refusal_t

cdef enum body_kind_t:
    BODY_NONE
    BODY_LENGTH                 # `remaining` bytes
    BODY_CHUNKED
    BODY_UNTIL_CLOSE            # responses only: everything up to the end of the stream

# What body_take returns beside -REFUSE_CHUNK and -REFUSE_BODY_SIZE.
cdef enum:
    BODY_MORE = 0               # feed more bytes
    BODY_DONE = 1               # the body is complete
    BODY_TRAILERS = 2           # the last chunk was read; a field section (HEAD_TRAILERS) comes now

cdef struct body_t:
    uint64_t remaining          # of the body, or of the chunk under way
    uint64_t size               # in chunks: of those that have begun
    uint64_t size_max           # in chunks; 0: no limit
    uint8_t kind                # body_kind_t
    uint8_t state               # chunk_t of framing.pyx
    uint16_t line_size          # bytes of the chunk line under way
    bint is_too_long            # `size` passed `size_max`, and that was the refusal
    bint is_bare                # trailer fields go no further

# What a head says about its connection.
cdef struct options_t:
    bint is_close               # Connection: close
    bint is_keep_alive          # Connection: keep-alive
    bint is_upgrade             # Connection: upgrade
    bint takes_trailers         # TE: trailers

# Reads the framing fields of a complete request; 0 or -refusal_t. `length` 0 and no body are one.
cdef int request_framing(const head_t *head, const uint8_t *data, body_t *body) noexcept nogil

# The same for a response; `is_bodiless` for answers to HEAD. 0 or -REFUSE_UPSTREAM.
cdef int response_framing(const head_t *head, const uint8_t *data, bint is_bodiless,
                          body_t *body) noexcept nogil

# Reads Connection and TE, and turns every field that Connection names into FIELD_HOP, unless the
# field has a meaning of its own. 0 or -REFUSE_FIELD when it names more than there can be.
cdef int connection_options(head_t *head, const uint8_t *data, options_t *options) noexcept nogil

# Why a body that body_take did not take is refused.
cdef inline refusal_t body_refusal(const body_t *self) noexcept nogil:
    return REFUSE_BODY_SIZE if self.is_too_long else REFUSE_CHUNK

# Whether the only element of `text` is `name` (lower case).
cdef bint is_only(const uint8_t *text, size_t size, const char *name) noexcept nogil

# Takes body bytes from data[0:size]. Decoded bytes are moved to the front of `data`: `*produced` of
# them; `*used` is how many raw bytes they came from. Both may be less than `size`.
cdef int body_take(body_t *self, uint8_t *data, size_t size, size_t *used,
                   size_t *produced) noexcept nogil
