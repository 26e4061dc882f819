"""Clients that stay at a backend, by a cookie that names it to those who have the cluster's key.

The value is backend_t.token in sixteen hex digits. It says nothing of an address, nodes agree on it
without a word, and it outlives reloads, for it hashes names.
"""

from libc.string cimport memcmp, memcpy, strlen

from fastpath.abi cimport service_t
from fastpath.http.fields cimport cookie_next, cookie_t
from fastpath.http.http1 cimport FIELD_OTHER, field_t, is_named
from fastpath.http.writing cimport put_number
from fastpath.proxy.outlier cimport outlier_is_passed_over

cdef enum:
    DIGITS = 16


cdef int digit_of(uint8_t byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else -1


cdef uint64_t token_at(const uint8_t *text) noexcept nogil:
    """Read sixteen digits; 0 when they are none."""
    cdef uint64_t token = 0
    cdef int i, digit
    for i in range(DIGITS):
        digit = digit_of(text[i])
        if digit < 0:
            return 0
        token = token << 4 | <uint64_t>digit
    return token


cdef uint64_t token_in(const text_t *cookie, const uint8_t *text, size_t size) noexcept nogil:
    """Look through `a=b; c=d`."""
    cdef cookie_t pair
    cdef size_t at = 0
    cdef uint64_t token = 0
    while token == 0 and cookie_next(text, size, &at, &pair):
        if (pair.value_size == DIGITS and pair.name_size == cookie.size
                and memcmp(pair.name, cookie.data, cookie.size) == 0):
            token = token_at(pair.value)
    return token


cdef uint64_t sticky_read(const text_t *cookie, const head_t *head,
                          const uint8_t *data) noexcept nogil:
    cdef const field_t *field
    cdef uint64_t token = 0
    cdef int i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if (token == 0 and field.kind == FIELD_OTHER
                and is_named(data + field.name.at, field.name.size, b"cookie")):
            token = token_in(cookie, data + field.value.at, field.value.size)
    return token


cdef const backend_t *sticky_find(loop_t *loop, const route_t *route,
                                  uint64_t token) noexcept nogil:
    cdef const service_t *service
    cdef const backend_t *backend
    cdef int i, j
    if token == 0:
        return NULL
    for i in range(route.n_targets):
        service = route.targets[i].service
        if service == NULL:
            continue
        for j in range(service.n_backends):
            backend = &service.backends[j]
            if (backend.token == token and backend.usable and not outlier_is_passed_over(
                    loop.common, service, backend, loop.now_ms)):
                return backend
    return NULL


cdef inline uint8_t *put_text(uint8_t *out, const char *text) noexcept nogil:
    memcpy(out, text, strlen(text))
    return out + strlen(text)


cdef size_t sticky_write(uint8_t *out, const route_t *route, uint64_t token) noexcept nogil:
    cdef uint8_t *end = put_text(out, b"Set-Cookie: ")
    cdef const uint8_t *digits = b"0123456789abcdef"
    cdef int i
    memcpy(end, route.cookie.data, route.cookie.size)
    end = put_text(end + route.cookie.size, b"=")
    for i in range(DIGITS):
        end[i] = digits[token >> (60 - 4 * i) & 15]
    end = put_text(end + DIGITS, b"; Path=/")
    if route.cookie_ttl_s != 0:
        end = put_text(end, b"; Max-Age=")
        end += put_number(end, route.cookie_ttl_s)
    end = put_text(end, b"; HttpOnly; SameSite=Lax\r\n")
    return end - out
