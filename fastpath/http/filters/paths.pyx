"""rewrite, strip_prefix, add_prefix: the path that a backend gets."""

from libc.string cimport memcmp, memcpy, memmove

from fastpath.abi cimport text_t
from fastpath.http.http1 cimport REFUSE_TARGET_SIZE, TARGET_SIZE_MAX


cdef int replace(request_t *request, uint16_t at, const text_t *new) noexcept nogil:
    """Put `new` in the place of path[:at]."""
    cdef uint16_t kept = request.path_size - at
    if new.size + kept + request.query.size > TARGET_SIZE_MAX:
        return -REFUSE_TARGET_SIZE
    memmove(request.path + new.size, request.path + at, kept)
    if new.size > 0:
        memcpy(request.path, new.data, new.size)
    request.path_size = <uint16_t>new.size + kept
    if request.path_size == 0:
        request.path[0] = c"/"
        request.path_size = 1
    return 0


cdef int strip(request_t *request, const text_t *prefix) noexcept nogil:
    """Take a prefix off, if the path has it, by elements."""
    cdef text_t nothing
    nothing.size = 0
    if (request.path_size < prefix.size
            or memcmp(request.path, prefix.data, prefix.size) != 0
            or (request.path_size > prefix.size and request.path[prefix.size] != c"/")):
        return 0
    return replace(request, <uint16_t>prefix.size, &nothing)


cdef int path_rewrite(request_t *request, const filters_t *filters,
                      const route_t *route) noexcept nogil:
    cdef int code = 0
    if filters.rewrites_path:
        code = replace(request, path_rest(request, route) if filters.rewrites_prefix
                       else request.path_size, &filters.new_path)
    if code == 0 and filters.stripped.size > 0:
        code = strip(request, &filters.stripped)
    if code == 0 and filters.added.size > 0:
        code = replace(request, 0, &filters.added)
    return code
