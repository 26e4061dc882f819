"""Which backend serves a flow: Maglev by a keyed hash, and who is next when that one fails."""

from libc.string cimport memcpy, memset

from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.hashing.siphash cimport siphash13
from fastpath.sys_linux cimport AF_INET


cdef enum:
    ADDRESS_SIZE = 16
    FLOW_SIZE = 37              # two addresses, two ports, the protocol
    NEIGHBOURS = 64             # table entries looked at for another choice


cdef void _put_address(
    uint8_t *ip, uint8_t *port, const sockaddr_any_t *address
) noexcept nogil:
    """Write 16 bytes of address (IPv4 as ::ffff:a.b.c.d) and 2 of port, in network order."""
    if address.any.sa_family == AF_INET:
        memset(ip, 0, 10)
        ip[10] = 0xff
        ip[11] = 0xff
        memcpy(ip + 12, &address.v4.sin_addr, 4)
        memcpy(port, &address.v4.sin_port, 2)
    else:
        memcpy(ip, &address.v6.sin6_addr, 16)
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


cdef bint _tried(const tries_t *tries, uint16_t slot) noexcept nogil:
    cdef int i
    for i in range(tries.n):
        if tries.slots[i] == slot:
            return True
    return False


cdef backend_t *_other(
    const service_t *service, uint64_t hash, const tries_t *tries
) noexcept nogil:
    """Another usable backend: the table's next entries, so weights count; then any in turn."""
    cdef backend_t *backend
    cdef uint64_t i
    for i in range(1, <uint64_t>NEIGHBOURS):
        backend = &service.backends[service.maglev[(hash + i) % MAGLEV_SIZE]]
        if not _tried(tries, backend.slot):
            return backend
    for i in range(service.n_backends):
        backend = &service.backends[(hash + i) % service.n_backends]
        if backend.usable and not _tried(tries, backend.slot):
            return backend
    return NULL


cdef backend_t *balance_choose(
    loop_t *loop, const service_t *service, uint64_t hash, tries_t *tries
) noexcept nogil:
    cdef backend_t *backend
    if service.maglev == NULL or tries.n >= MAX_TRIES:
        return NULL
    backend = &service.backends[service.maglev[hash % MAGLEV_SIZE]]
    if tries.n > 0 and _tried(tries, backend.slot):
        backend = _other(service, hash, tries)
        if backend == NULL:
            return NULL
    tries.slots[tries.n] = backend.slot
    tries.n += 1
    return backend
