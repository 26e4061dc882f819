"""request_headers, response_headers: fields set, added and removed."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.abi cimport text_t
from fastpath.http.filters.table cimport NAME_SIZE_MAX
from fastpath.http.http1 cimport FIELD_HOP, FIELD_OTHER, FIELD_UNDERSCORE, field_t


cdef inline uint8_t plain_of(uint8_t character) noexcept nogil:
    """Lower case, and a dash for an underscore."""
    if c"A" <= character <= c"Z":
        return character | 0x20
    return c"-" if character == c"_" else character


cdef bint names_equal(const uint8_t *name, const uint8_t *plain, uint16_t size) noexcept nogil:
    cdef uint16_t i
    for i in range(size):
        if plain_of(name[i]) != plain[i]:
            return False
    return True


cdef bint is_dropped(const uint8_t *name, uint16_t size, const edits_t *edits) noexcept nogil:
    cdef const text_t *dropped
    cdef uint32_t i
    for i in range(edits.n_dropped):
        dropped = &edits.dropped[i]
        if dropped.size == size and names_equal(name, dropped.data, size):
            return True
    return False


cdef void headers_drop(head_t *head, const uint8_t *data, const edits_t *edits) noexcept nogil:
    cdef field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind != FIELD_OTHER and field.kind != FIELD_UNDERSCORE:
            continue
        if field.name.size > NAME_SIZE_MAX or not edits.sizes >> field.name.size & 1:
            continue
        if is_dropped(data + field.name.at, field.name.size, edits):
            field.kind = FIELD_HOP
