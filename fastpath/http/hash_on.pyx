"""What stands for who sends a request, on routes that go by a header or cookie."""

from libc.stdint cimport uint16_t
from libc.string cimport memcmp

from fastpath.abi cimport HASH_COOKIE, text_t
from fastpath.hashing.siphash cimport siphash24
from fastpath.http.fields cimport cookie_next, cookie_t, field_find
from fastpath.http.http1 cimport FIELD_OTHER, field_t, is_named


cdef bint cookie_find(cookie_t *cookie, const text_t *name, const head_t *head,
                      const uint8_t *data) noexcept nogil:
    """The first cookie of that name."""
    cdef const field_t *field
    cdef size_t at
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if (field.kind != FIELD_OTHER
                or not is_named(data + field.name.at, field.name.size, b"cookie")):
            continue
        at = 0
        while cookie_next(data + field.value.at, field.value.size, &at, cookie):
            if (cookie.name_size == name.size
                    and memcmp(cookie.name, name.data, name.size) == 0):
                return True
    return False


cdef uint64_t hash_on(const loop_t *loop, const route_t *route, const head_t *head,
                      const uint8_t *data, uint64_t origin) noexcept nogil:
    cdef const field_t *field
    cdef cookie_t cookie
    cdef const uint8_t *value = NULL
    cdef size_t size = 0
    if route.hash_kind == HASH_COOKIE:
        if cookie_find(&cookie, &route.hash_name, head, data):
            value = cookie.value
            size = cookie.value_size
    else:
        field = field_find(head, data, &route.hash_name)
        if field != NULL:
            value = data + field.value.at
            size = field.value.size
    if size > 0:
        origin = siphash24(loop.hash_key[0], loop.hash_key[1], value, size)
    return max(origin, <uint64_t>1)
