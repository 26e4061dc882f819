"""request_headers, response_headers: fields set, added and removed."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.filters.table cimport edits_t
from fastpath.http.http1 cimport head_t

# Hides the fields that are set anew or removed; what is written instead is `edits.lines`. `_` in a
# name counts as `-`: backends of CGI's kind take one for the other.
cdef void headers_drop(head_t *head, const uint8_t *data, const edits_t *edits) noexcept nogil

# Whether two names of that size are one; `plain` is in lower case, with dashes for underscores.
cdef bint names_equal(const uint8_t *name, const uint8_t *plain, uint16_t size) noexcept nogil
