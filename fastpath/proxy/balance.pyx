"""Which backend serves a flow: by a keyed hash and the service's policy, and who is next."""

from libc.stdint cimport int32_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastpath.abi cimport MAX_BACKENDS, MAX_TRIES
from fastpath.atomics cimport store_signed
from fastpath.hashing.siphash cimport siphash13
from fastpath.address cimport ADDRESS_SIZE, address_put
from fastpath.proxy.outlier cimport outlier_forget
from fastpath.proxy.policies cimport choice_init, choice_make, choice_t
from fastpath.sys_linux cimport AF_INET


cdef enum:
    FLOW_SIZE = 37              # two addresses, two ports, the protocol


cdef void _put_address(
    uint8_t *ip, uint8_t *port, const sockaddr_any_t *address
) noexcept nogil:
    """Write ADDRESS_SIZE bytes of address and 2 of port, in network order."""
    address_put(ip, address)
    if address.any.sa_family == AF_INET:
        memcpy(port, &address.v4.sin_port, 2)
    else:
        memcpy(port, &address.v6.sin6_port, 2)


cdef uint64_t flow_hash(
    const uint64_t *key, const sockaddr_any_t *peer, const sockaddr_any_t *local, uint8_t protocol
) noexcept nogil:
    cdef uint8_t flow[FLOW_SIZE]
    _put_address(flow, flow + 32, peer)
    _put_address(flow + 16, flow + 34, local)
    flow[36] = protocol
    return siphash13(key[0], key[1], flow, FLOW_SIZE)


cdef uint64_t client_hash(const uint64_t *key, const sockaddr_any_t *peer) noexcept nogil:
    cdef uint8_t ip[ADDRESS_SIZE]
    cdef uint8_t port[2]
    _put_address(ip, port, peer)
    return siphash13(key[0], key[1], ip, ADDRESS_SIZE)


cdef uint64_t service_hash(
    const uint64_t *key, const service_t *service, const sockaddr_any_t *peer,
    const sockaddr_any_t *local, uint8_t protocol,
) noexcept nogil:
    if service.affinity:
        return client_hash(key, peer)
    return flow_hash(key, peer, local, protocol)


cdef backend_t *balance_choose(
    loop_t *loop, const service_t *service, uint64_t hash, tries_t *tries
) noexcept nogil:
    cdef choice_t choice
    cdef int32_t index
    if tries.n >= MAX_TRIES:
        return NULL
    choice_init(
        &choice, service, loop.common, loop.counters.backends, tries, hash, loop.now_ms
    )
    index = choice_make(&choice)
    if index < 0:
        return NULL
    tries.slots[tries.n] = service.backends[index].slot
    tries.n += 1
    return &service.backends[index]


cdef void balance_renew(
    common_t *common, const snapshot_t *before, const snapshot_t *after
) noexcept nogil:
    cdef const backend_t *old
    cdef const backend_t *new
    cdef uint32_t slot, i
    for slot in range(<uint32_t>MAX_BACKENDS):
        old = before.backend_of_slot[slot]
        new = after.backend_of_slot[slot]
        if new == NULL:
            continue
        if old == NULL:
            for i in range(common.n_workers):
                store_signed(&common.counters[i].backends[slot].current_weight, 0)
        if (
            old == NULL
            or (new.usable and not old.usable)
            or memcmp(&old.address, &new.address, new.address_size) != 0
        ):
            outlier_forget(common, <uint16_t>slot)
