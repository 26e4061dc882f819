"""The Basic scheme (RFC 7617)."""

from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memchr

from fastpath.http.http1 cimport is_named

cdef enum:
    SCHEME_SIZE = 5             # `Basic`


cdef inline int32_t digit_of(uint8_t character) noexcept nogil:
    """Its six bits (RFC 4648, table 1), or -1."""
    if c"A" <= character <= c"Z":
        return character - c"A"
    if c"a" <= character <= c"z":
        return character - c"a" + 26
    if c"0" <= character <= c"9":
        return character - c"0" + 52
    if character == c"+":
        return 62
    return 63 if character == c"/" else -1


cdef int decode(uint8_t *out, const uint8_t *text, uint16_t size) noexcept nogil:
    """Whole groups of four characters, the last one padded; how many bytes, or -1."""
    cdef int n = 0
    cdef int32_t digit
    cdef uint32_t bits = 0
    cdef uint16_t i
    cdef uint16_t n_digits = size
    if size == 0 or size % 4:
        return -1
    while size - n_digits < 2 and text[n_digits - 1] == c"=":
        n_digits -= 1
    for i in range(n_digits):
        digit = digit_of(text[i])
        if digit < 0:
            return -1
        bits = bits << 6 | <uint32_t>digit
        if i % 4 > 0:           # each but the first one of a group completes a byte
            out[n] = <uint8_t>(bits >> (6 - 2 * (i % 4)))
            n += 1
    if size > n_digits and bits & ((1 << 2 * (size - n_digits)) - 1):
        return -1               # bits that belong to no byte: not the one way to write it
    return n


cdef bint basic_read(basic_t *self, const uint8_t *value, uint16_t size) noexcept nogil:
    cdef uint16_t at = SCHEME_SIZE
    cdef const uint8_t *colon
    cdef int n
    cdef int i
    if (size <= SCHEME_SIZE or value[SCHEME_SIZE] != c" "
            or not is_named(value, SCHEME_SIZE, b"basic")):
        return False
    while at < size and value[at] == c" ":
        at += 1
    if (size - at) // 4 * 3 > <int>sizeof(self.text):
        return False
    n = decode(self.text, value + at, size - at)
    if n <= 0:
        return False
    for i in range(n):
        if self.text[i] < 0x20 or self.text[i] == 0x7f:
            return False
    colon = <const uint8_t *>memchr(self.text, c":", n)
    if colon == NULL:
        return False
    self.user_size = <uint16_t>(colon - self.text)
    self.password_size = <uint16_t>(n - self.user_size - 1)
    return self.user_size <= WORD_SIZE_MAX and self.password_size <= WORD_SIZE_MAX
