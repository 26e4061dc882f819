"""Whether a client's connection or session may begin, and what it must give back at its end."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastpath.abi cimport FP_OK, REJECT_CLIENT, REJECT_SERVICE, REJECT_SOURCE, service_t
from fastpath.atomics cimport add_shared
from fastpath.loop cimport loop_t
from fastpath.proxy.clients cimport clients_enter, clients_leave, clients_t, service_key
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.sys_linux cimport sockaddr_any_t


cdef int admission_enter(
    loop_t *loop, const service_t *service, const sockaddr_any_t *client, admitted_t *admitted
) noexcept nogil:
    cdef int64_t n_open
    memset(admitted, 0, sizeof(admitted_t))
    if service.allowed.n > 0 and not prefixes_have(&service.allowed, client):
        return -1 - REJECT_SOURCE
    n_open = add_shared(&loop.common.service_open[service.slot], 1)
    admitted.service_slot = service.slot
    admitted.counted = True
    if service.connections_max > 0 and n_open > service.connections_max:
        admission_leave(loop, admitted)
        return -1 - REJECT_SERVICE
    if service.connections_per_source > 0 and clients_enter(
        <clients_t *>loop.common.known_clients, service_key(service), client,
        service.connections_per_source, &admitted.client,
    ) != FP_OK:
        admission_leave(loop, admitted)
        return -1 - REJECT_CLIENT
    return FP_OK


cdef void admission_leave(loop_t *loop, admitted_t *admitted) noexcept nogil:
    if admitted.client != NULL:
        clients_leave(<clients_t *>loop.common.known_clients, admitted.client)
    if admitted.counted:
        add_shared(&loop.common.service_open[admitted.service_slot], -1)
    memset(admitted, 0, sizeof(admitted_t))
