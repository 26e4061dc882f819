"""Writing into a head that is rendered: each but put_number returns the end of what it wrote."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, strlen

from fastpath.http.http1 cimport field_t


cdef inline uint8_t *put(uint8_t *out, const void *text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


cdef inline uint8_t *put_text(uint8_t *out, const char *text) noexcept nogil:
    """A literal: its length is known to the compiler."""
    return put(out, text, strlen(text))


cdef inline uint8_t *put_field(uint8_t *out, const field_t *field,
                               const uint8_t *data) noexcept nogil:
    """A field line as it came; in one piece when it is spelled as we would."""
    if field.value.at == field.name.at + field.name.size + 2:
        out = put(out, data + field.name.at, field.name.size + 2 + field.value.size)
    else:
        out = put(out, data + field.name.at, field.name.size)
        out = put_text(out, b": ")
        out = put(out, data + field.value.at, field.value.size)
    return put_text(out, b"\r\n")


cdef inline size_t put_number(uint8_t *out, uint64_t value) noexcept nogil:
    """Write a number in decimal; its size, at most 20."""
    cdef uint8_t digits[20]
    cdef size_t n = 0
    cdef size_t i
    while True:
        digits[n] = c"0" + <uint8_t>(value % 10)
        value = value // 10
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n
