"""Which route a request takes (`piagent.core.routing` has the same rules and sorts the entries)."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from fastpath.abi cimport HOST_ANY, HOST_EXACT
from fastpath.http.patterns cimport pattern_matches
from fastpath.http.predicates cimport conditions_match


cdef bint host_matches(const route_t *self, const uint8_t *host, size_t size,
                       bint any_depth) noexcept nogil:
    """A wildcard stands for one label before the suffix, or with `any_depth` for more, too."""
    cdef size_t label_size
    if self.host_kind == HOST_ANY:
        return True
    if self.host_kind == HOST_EXACT:
        return size == self.host.size and memcmp(host, self.host.data, size) == 0
    if size <= self.host.size:
        return False
    label_size = size - self.host.size
    if memcmp(host + label_size, self.host.data, self.host.size) != 0:
        return False
    return any_depth or memchr(host, c".", label_size) == NULL


cdef bint path_matches(const route_t *self, const uint8_t *path, size_t size) noexcept nogil:
    """A prefix goes by elements; it has no slash at its end, unless it is `/`."""
    cdef size_t n = self.path.size
    if self.pattern != NULL:
        return pattern_matches(self.pattern, path, size)
    if size < n or memcmp(path, self.path.data, n) != 0:
        return False
    return size == n or (not self.exact and (n == 1 or path[n] == c"/"))


cdef route_t *route_find(const gateway_t *gateway, const asked_t *asked) noexcept nogil:
    cdef uint32_t i
    cdef route_t *route
    for i in range(gateway.n_routes):
        route = &gateway.routes[i]
        if (path_matches(route, asked.path, asked.path_size)
                and host_matches(route, asked.host, asked.host_size, gateway.any_depth)
                and conditions_match(&route.conditions, asked)):
            return route
    return NULL
