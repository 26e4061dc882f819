"""Which of a route's targets gets a request."""

from fastpath.abi cimport route_t, target_t
from fastpath.loop cimport loop_t

# By weight: exact in the long run, evenly mixed in the short. NULL: the route has none.
cdef const target_t *target_next(loop_t *loop, const route_t *route) noexcept nogil
