"""Lists in field values (RFC 9110, 5.6.1)."""

from libc.stdint cimport uint8_t, uint16_t

cdef struct element_t:
    const uint8_t *text
    uint16_t size               # without the white space around it; 0: empty

# The element that begins at `at`, which moves behind its end mark; False when there is no more. A
# quoted string is taken for no more than its characters, so a mark in it ends an element.
cdef bint list_next(const uint8_t *text, uint16_t size, uint8_t mark, uint16_t *at,
                    element_t *element) noexcept nogil

# Whether an element is that word, in lower case.
cdef bint list_has(const uint8_t *text, uint16_t size, const char *word) noexcept nogil
