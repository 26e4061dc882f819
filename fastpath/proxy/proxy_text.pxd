"""Addresses and numbers as text, strictly: what version 1 of the PROXY protocol is made of.

Reading moves a cursor over text that may not be complete yet. When a reader meets the end of what
is there, or a byte that cannot stand there, the cursor's status says so and nothing more is read;
so readers can follow each other and the status be looked at once.
"""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.abi cimport FP_AGAIN, FP_OK


cdef struct cursor_t:
    const uint8_t *data         # borrowed
    size_t size
    size_t at
    int status                  # FP_OK; FP_AGAIN: all there is was read; FP_BAD


# The byte at the cursor, which stays; -1 when there is none.
cdef inline int text_next(cursor_t *c) noexcept nogil:
    if c.status != FP_OK:
        return -1
    if c.at == c.size:
        c.status = FP_AGAIN
        return -1
    return c.data[c.at]


# Pass exactly this text.
cdef void text_expect(cursor_t *c, const uint8_t *text, size_t size) noexcept nogil
# A number without leading zeros, up to the byte that ends it, which must be there.
cdef uint32_t text_decimal(cursor_t *c, uint32_t largest) noexcept nogil
# Four bytes from `192.0.2.1`, likewise.
cdef void text_v4(cursor_t *c, uint8_t *ip) noexcept nogil
# Sixteen bytes from `2001:db8::1` or `::ffff:192.0.2.1`, likewise; case and zeros in front of a
# group do not matter, `::` stands for one group and more.
cdef void text_v6(cursor_t *c, uint8_t *ip) noexcept nogil

# Writers return how many bytes they wrote.
cdef size_t put_text(uint8_t *out, const uint8_t *text, size_t size) noexcept nogil
cdef size_t put_decimal(uint8_t *out, uint32_t value) noexcept nogil    # 10 bytes at most
cdef size_t put_v4(uint8_t *out, const uint8_t *ip) noexcept nogil      # 15
# As RFC 5952, 4 has it, but never with a dotted quad.
cdef size_t put_v6(uint8_t *out, const uint8_t *ip) noexcept nogil      # 39
