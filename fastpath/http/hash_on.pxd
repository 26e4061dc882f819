"""What stands for who sends a request, on routes that go by a header or cookie."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.abi cimport route_t
from fastpath.http.http1 cimport head_t
from fastpath.loop cimport loop_t

# The keyed hash of the value that `route.hash_name` names, the same on every node; never 0. Without
# one: `origin`, the client's address.
cdef uint64_t hash_on(const loop_t *loop, const route_t *route, const head_t *head,
                      const uint8_t *data, uint64_t origin) noexcept nogil
