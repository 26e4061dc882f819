"""Which backend serves a flow: by a keyed hash and the service's policy, and who is next."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.abi cimport backend_t, common_t, service_t, snapshot_t
from fastpath.loop cimport loop_t
from fastpath.proxy.policies cimport tries_t
from fastpath.sys_linux cimport sockaddr_any_t


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

# The policy's choice that is not in `tries`, and notes it there. NULL: no usable backend is left,
# or MAX_TRIES were tried. Ejected backends and those that have just come back are passed over while
# there are others. The backend belongs to the service's snapshot.
cdef backend_t *balance_choose(
    loop_t *loop, const service_t *service, uint64_t hash, tries_t *tries
) noexcept nogil

# New tables: forget what was noted of backends that have the slot of another one, that have moved
# to another address, or that checks have found well again. The engine's, before workers see them.
cdef void balance_renew(
    common_t *common, const snapshot_t *before, const snapshot_t *after
) noexcept nogil
