"""rewrite, strip_prefix, add_prefix: the path that a backend gets.

Prefixes are replaced as by ReplacePrefixMatch of the Gateway API. A canonical path stays one:
elements come and go whole, so no `..` can appear.
"""

from libc.stdint cimport uint16_t

from fastpath.abi cimport route_t
from fastpath.http.filters.table cimport filters_t
from fastpath.http.request cimport request_t


# Where in the request's path the rest after the route's path begins: nothing, or a slash and more.
cdef inline uint16_t path_rest(const request_t *request, const route_t *route) noexcept nogil:
    if route.pattern != NULL:           # has no prefix: all of it is matched
        return request.path_size
    return <uint16_t>route.path.size if route.path.size > 1 else 0

# What the filters make of the request's path: 0, or -REFUSE_TARGET_SIZE.
cdef int path_rewrite(request_t *request, const filters_t *filters,
                      const route_t *route) noexcept nogil
