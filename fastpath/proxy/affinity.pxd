"""Affinity with a timeout: a client goes where its last connection went, if not long ago.

For services with `affinity` and `affinity_timeout_ms`; each node remembers by itself. Which backend
a client without a memory gets is the hash's business, which is the same on every node.
"""

from libc.stdint cimport uint16_t, uint64_t

from fastpath.abi cimport backend_t, service_t
from fastpath.loop cimport loop_t
from fastpath.proxy.balance cimport tries_t
from fastpath.sys_linux cimport sockaddr_any_t

# The backend that the client had, if it is usable and not passed over as ejected; NULL: choose one.
# Belongs to the snapshot.
cdef const backend_t *affinity_recall(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client
) noexcept nogil
# As balance_choose, but it is the one that the client had if none was tried yet.
cdef const backend_t *affinity_choose(
    loop_t *loop,
    const service_t *service,
    const sockaddr_any_t *client,
    uint64_t hash,
    tries_t *tries,
) noexcept nogil
# A connection to the backend of that slot has been established for the client. Harmless for a
# service that asks for no such thing.
cdef void affinity_remember(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client, uint16_t backend_slot
) noexcept nogil
