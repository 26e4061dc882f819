"""A request's fields and cookies, by name."""

from libc.stdint cimport uint16_t
from libc.string cimport memchr

from fastpath.http.filters.headers cimport names_equal
from fastpath.http.http1 cimport FIELD_OTHER


cdef const field_t *field_find(const head_t *head, const uint8_t *data,
                               const text_t *name) noexcept nogil:
    cdef const field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if (field.kind == FIELD_OTHER and field.name.size == name.size
                and names_equal(data + field.name.at, name.data, field.name.size)):
            return field
    return NULL


cdef size_t up_to(const uint8_t *text, size_t size, uint8_t byte) noexcept nogil:
    """How many bytes come before that one; all when it is not there."""
    cdef const uint8_t *found = <const uint8_t *>memchr(text, byte, size)
    return found - text if found != NULL else size


cdef bint cookie_next(const uint8_t *text, size_t size, size_t *at,
                      cookie_t *cookie) noexcept nogil:
    cdef size_t pair
    while at[0] < size and text[at[0]] in (c" ", c";", c"\t"):
        at[0] += 1
    if at[0] >= size:
        return False
    cookie.name = text + at[0]
    pair = up_to(cookie.name, size - at[0], c";")
    at[0] += pair
    cookie.name_size = up_to(cookie.name, pair, c"=")
    cookie.value = cookie.name + min(cookie.name_size + 1, pair)
    cookie.value_size = cookie.name + pair - cookie.value
    return True
