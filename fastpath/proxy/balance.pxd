"""Which backend serves a flow: Maglev by a keyed hash, and who is next when that one fails."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.abi cimport MAX_TRIES, backend_t, service_t
from fastpath.loop cimport loop_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef struct tries_t:            # the backends tried so far; zeroed = none
    uint16_t slots[MAX_TRIES]
    uint8_t n


# SipHash-1-3 over addresses, ports and protocol (IPPROTO_*): the same on every node with that key.
cdef uint64_t flow_hash(
    const uint64_t *key,        # two words
    const sockaddr_any_t *peer,
    const sockaddr_any_t *local,
    uint8_t protocol,
) noexcept nogil

# The same over the client's address alone: all that comes from there is one flow.
cdef uint64_t client_hash(const uint64_t *key, const sockaddr_any_t *peer) noexcept nogil

# Which of the two picks the backends of this service.
cdef uint64_t service_hash(
    const uint64_t *key,
    const service_t *service,
    const sockaddr_any_t *peer,
    const sockaddr_any_t *local,
    uint8_t protocol,
) noexcept nogil

# The hash's choice, or the next one that is not in `tries`, and notes it there. NULL: no usable
# backend is left, or MAX_TRIES were tried. The backend belongs to the service's snapshot.
cdef backend_t *balance_choose(
    loop_t *loop, const service_t *service, uint64_t hash, tries_t *tries
) noexcept nogil
