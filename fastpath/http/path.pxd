"""Canonical hosts and paths: the one spelling that is matched and forwarded.

A path (without its query), in this order: `%xx` of an unreserved character is decoded; other
escapes stay, in upper case, so an encoded slash or backslash is an ordinary character of its
element; a visible character that RFC 3986 does not allow in a path is encoded; empty elements are
dropped; `.` and `..` are resolved. A path that ends in `/`, `/.` or `/..` ends in `/` afterwards.
Doing it twice changes nothing. No canonical form have: a path that does not begin with `/`; a
control character, white space, a byte above 126, `#` or `?`; `%` without two hex digits; `%00`;
`..` above the root. By the gateway's rules empty elements stay (`..` takes one away like any
other), and a path with an encoded slash or backslash has no canonical form.

A host: lower case, without port and one trailing dot. Names are labels of letters, digits, `-` and
`_`; IPv6 literals keep their brackets. `piagent.core.routing` has the same rules.
"""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    HOST_SIZE_MAX = 255         # as sent, with the port

# Rules of a gateway.
cdef enum:
    PATH_KEEPS_SLASHES = 1      # `//` stays
    PATH_REFUSES_SLASH = 2      # an encoded one, or backslash

# Writes the canonical form of path[0:size] by these rules (PATH_*) to `out`. Returns its size, -1
# when there is none, -2 when it is longer than `room` less three.
cdef int path_canonical(const uint8_t *path, size_t size, uint8_t *out, size_t room,
                        uint8_t rules) noexcept nogil

# Writes the canonical form of a Host field's value to `out` (at least HOST_SIZE_MAX bytes); `port`
# gets the port, 0 when none is given. Returns the size without the port, or -1.
cdef int host_canonical(const uint8_t *host, size_t size, uint8_t *out,
                        uint16_t *port) noexcept nogil
