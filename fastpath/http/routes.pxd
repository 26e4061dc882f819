"""Which route a request takes: the first entry of a gateway's table that matches."""

from libc.stdint cimport uint8_t, uint16_t

cdef enum host_kind_t:
    HOST_ANY
    HOST_EXACT
    HOST_WILDCARD               # `*.suffix`; the entry holds `.suffix`

# One entry, in canonical spelling. The table's owner keeps the bytes alive.
cdef struct route_match_t:
    const uint8_t *host         # borrowed
    const uint8_t *path         # borrowed; a prefix has no slash at its end, but for `/`
    uint16_t host_size
    uint16_t path_size
    uint8_t host_kind           # host_kind_t
    bint exact

# Whether an entry takes in a canonical host and path; `any_depth`: a wildcard stands for one and more
# labels instead of one.
cdef bint route_matches(const route_match_t *self, const uint8_t *host, size_t host_size,
                        const uint8_t *path, size_t path_size, bint any_depth) noexcept nogil
