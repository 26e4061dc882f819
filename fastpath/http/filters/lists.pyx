"""Lists in field values."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.http1 cimport is_named


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef bint list_next(const uint8_t *text, uint16_t size, uint8_t mark, uint16_t *at,
                    element_t *element) noexcept nogil:
    cdef uint16_t first = at[0]
    cdef uint16_t last
    if first >= size:
        return False
    while at[0] < size and text[at[0]] != mark:
        at[0] += 1
    last = at[0]
    at[0] += 1
    while first < last and is_space(text[first]):
        first += 1
    while last > first and is_space(text[last - 1]):
        last -= 1
    element.text = text + first
    element.size = last - first
    return True


cdef bint list_has(const uint8_t *text, uint16_t size, const char *word) noexcept nogil:
    cdef element_t element
    cdef uint16_t at = 0
    while list_next(text, size, c",", &at, &element):
        if is_named(element.text, element.size, word):
            return True
    return False
