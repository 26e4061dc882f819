"""X-Request-Id."""

from libc.stdint cimport uint16_t
from libc.string cimport memcpy

from fastpath.abi cimport FP_FULL, FP_OK
from fastpath.http.http1 cimport FIELD_MANAGED, field_t, is_named, span_t
from fastpath.http.request cimport REQUEST_ID_MAX

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *data, size_t size, unsigned int flags)


cdef void put_hex(uint8_t *out, uint64_t value) noexcept nogil:
    cdef const uint8_t *digits = <const uint8_t *>b"0123456789abcdef"
    cdef int i
    for i in range(ID_HALF):
        out[i] = digits[value >> (60 - 4 * i) & 15]


cdef int request_ids_init(request_ids_t *self) noexcept nogil:
    cdef uint64_t drawn[2]
    if getrandom(drawn, sizeof(drawn), 0) != sizeof(drawn):
        return FP_FULL
    put_hex(self.prefix, drawn[0])
    self.last = drawn[1]
    return FP_OK


cdef bint is_sane(const uint8_t *text, uint16_t size) noexcept nogil:
    """1 to 64 letters, digits, `.`, `_` and `-`."""
    cdef uint16_t i
    cdef uint8_t byte
    if not 0 < size <= REQUEST_ID_MAX:
        return False
    for i in range(size):
        byte = text[i]
        if not (c"a" <= byte | 0x20 <= c"z" or c"0" <= byte <= c"9" or byte == c"."
                or byte == c"_" or byte == c"-"):
            return False
    return True


cdef span_t told(const head_t *head, const uint8_t *data) noexcept nogil:
    """The only X-Request-Id, if it is sane; else of no size."""
    cdef span_t found
    cdef const field_t *field
    cdef uint16_t n = 0
    cdef uint16_t i
    found.at = found.size = 0
    for i in range(head.fields_count):
        field = &head.fields[i]
        if (field.kind == FIELD_MANAGED
                and is_named(data + field.name.at, field.name.size, b"x-request-id")):
            found = field.value
            n += 1
    if n != 1 or not is_sane(data + found.at, found.size):
        found.size = 0
    return found


cdef void request_identify(request_t *request, const head_t *head, const uint8_t *data,
                           request_ids_t *ids) noexcept nogil:
    cdef span_t found
    if request.is_trusted:
        found = told(head, data)
        if found.size > 0:
            memcpy(request.id, data + found.at, found.size)
            request.id_size = <uint8_t>found.size
            return
    ids.last += 1
    memcpy(request.id, ids.prefix, ID_HALF)
    put_hex(request.id + ID_HALF, ids.last)
    request.id_size = 2 * ID_HALF
