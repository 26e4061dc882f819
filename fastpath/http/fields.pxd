"""A request's fields and cookies, by name."""

from libc.stdint cimport uint8_t

from fastpath.abi cimport text_t
from fastpath.http.http1 cimport field_t, head_t

cdef struct cookie_t:
    const uint8_t *name
    size_t name_size
    const uint8_t *value
    size_t value_size

# The first field of that name, or NULL; `name` is in lower case, with dashes for underscores.
# Fields that frame the message or that the gateway takes out are none of these.
cdef const field_t *field_find(const head_t *head, const uint8_t *data,
                               const text_t *name) noexcept nogil

# The next pair of a Cookie field's `size` bytes, from `at[0]` on, which goes behind it; False at
# the end. A value may be anything but a `;` (RFC 6265, 4.2.1, and what clients send in fact).
cdef bint cookie_next(const uint8_t *text, size_t size, size_t *at,
                      cookie_t *cookie) noexcept nogil
