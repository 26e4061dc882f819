"""The Basic scheme (RFC 7617): what a client says for its Authorization."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    WORD_SIZE_MAX = 255         # bytes of a user's name, and of a password
    CREDENTIALS_SIZE_MAX = 2 * WORD_SIZE_MAX + 1

cdef struct basic_t:
    uint16_t user_size
    uint16_t password_size
    uint8_t text[CREDENTIALS_SIZE_MAX + 2]      # the one, a colon, the other; room to decode into

# Reads the value of an Authorization: `Basic`, spaces, and strict base64 (RFC 4648, padded and
# without stray bits) of a name and a password without control characters (RFC 7617, 2). Whether it
# is that.
cdef bint basic_read(basic_t *self, const uint8_t *value, uint16_t size) noexcept nogil
