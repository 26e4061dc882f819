"""Which route a request takes (`piagent.core.routing` has the same rules and sorts the entries)."""

from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp


cdef bint host_matches(const route_match_t *self, const uint8_t *host, size_t size,
                       bint any_depth) noexcept nogil:
    cdef size_t label_size
    if self.host_kind == HOST_ANY:
        return True
    if self.host_kind == HOST_EXACT:
        return size == self.host_size and memcmp(host, self.host, size) == 0
    if size <= self.host_size:
        return False
    label_size = size - self.host_size
    if memcmp(host + label_size, self.host, self.host_size) != 0:
        return False
    return any_depth or memchr(host, c".", label_size) == NULL


cdef bint path_matches(const route_match_t *self, const uint8_t *path, size_t size) noexcept nogil:
    if size < self.path_size or memcmp(path, self.path, self.path_size) != 0:
        return False
    if size == self.path_size:
        return True
    if self.exact:
        return False
    return self.path_size == 1 or path[self.path_size] == c"/"


cdef bint route_matches(const route_match_t *self, const uint8_t *host, size_t host_size,
                        const uint8_t *path, size_t path_size, bint any_depth) noexcept nogil:
    return (host_matches(self, host, host_size, any_depth)
            and path_matches(self, path, path_size))
