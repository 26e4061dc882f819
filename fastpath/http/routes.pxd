"""Which route a request takes: the first entry of a gateway's table that matches."""

from fastpath.abi cimport gateway_t, route_t
from fastpath.http.predicates cimport asked_t

# The route, or NULL.
cdef route_t *route_find(const gateway_t *gateway, const asked_t *asked) noexcept nogil
