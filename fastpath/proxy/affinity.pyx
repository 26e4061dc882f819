"""Affinity with a timeout: a client goes where its last connection went, if not long ago."""

from libc.stdint cimport uint16_t, uint64_t

from fastpath.abi cimport FP_OK, MAX_BACKENDS, backend_t, service_t
from fastpath.loop cimport loop_t
from fastpath.proxy.balance cimport balance_choose, tries_t
from fastpath.proxy.clients cimport clients_recall, clients_remember, clients_t, service_key
from fastpath.proxy.outlier cimport outlier_is_passed_over
from fastpath.sys_linux cimport sockaddr_any_t


cdef inline bint _wanted(const service_t *service) noexcept nogil:
    return service.affinity and service.affinity_timeout_ms > 0


cdef inline uint64_t _key(const backend_t *backend) noexcept nogil:
    """What stands for this backend and never for another, whoever gets its slot."""
    return backend.born * MAX_BACKENDS + backend.slot


cdef const backend_t *affinity_recall(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client
) noexcept nogil:
    cdef const backend_t *backend
    cdef uint64_t key = 0
    if not _wanted(service) or clients_recall(
        <clients_t *>loop.common.known_clients, service_key(service), client,
        service.affinity_timeout_ms, loop.now_ms, &key,
    ) != FP_OK:
        return NULL
    backend = loop.snapshot.backend_of_slot[key % MAX_BACKENDS]
    if backend == NULL or _key(backend) != key or not backend.usable:
        return NULL
    if outlier_is_passed_over(loop.common, service, backend, loop.now_ms):
        return NULL
    return backend


cdef const backend_t *affinity_choose(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client, uint64_t hash,
    tries_t *tries,
) noexcept nogil:
    cdef const backend_t *known = NULL
    if tries.n == 0:
        known = affinity_recall(loop, service, client)
    if known == NULL:
        return balance_choose(loop, service, hash, tries)
    tries.slots[0] = known.slot
    tries.n = 1
    return known


cdef void affinity_remember(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client, uint16_t backend_slot
) noexcept nogil:
    cdef const backend_t *backend = loop.snapshot.backend_of_slot[backend_slot]
    if _wanted(service) and backend != NULL:
        clients_remember(
            <clients_t *>loop.common.known_clients, service_key(service), client,
            _key(backend), loop.now_ms,
        )
