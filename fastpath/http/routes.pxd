"""Which route a request takes: the first entry of a gateway's table that matches."""

from libc.stdint cimport uint8_t

from fastpath.abi cimport gateway_t, route_t

# The route for a canonical host and path (path.pxd), or NULL.
cdef route_t *route_find(const gateway_t *gateway, const uint8_t *host, size_t host_size,
                         const uint8_t *path, size_t path_size) noexcept nogil
