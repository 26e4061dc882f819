"""A session's socket to its backend."""

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK, service_t
from fastpath.atomics cimport gauge
from fastpath.loop cimport (
    backend_closed, backend_connected, backend_refused, endpoint_init, loop_close, loop_watch,
)
from fastpath.outgoing cimport outgoing_open_datagrams
from fastpath.proxy.affinity cimport affinity_choose, affinity_remember
from fastpath.proxy.datagram cimport datagram_prepare
from fastpath.proxy.outlier cimport outlier_answered, outlier_failed
from fastpath.sys_linux cimport EPOLLIN


cdef void upstream_close(loop_t *loop, session_t *session) noexcept nogil:
    if session.upstream.fd >= 0:
        loop_close(loop, &session.upstream)
        backend_closed(loop, session.backend_slot, True)


cdef void upstream_refused(loop_t *loop, session_t *session) noexcept nogil:
    backend_refused(loop, session.backend_slot)
    outlier_failed(loop, session.backend_slot)
    upstream_close(loop, session)


cdef void upstream_answered(loop_t *loop, session_t *session) noexcept nogil:
    cdef const service_t *service
    outlier_answered(loop, session.backend_slot)
    if session.answered:
        return
    session.answered = True
    service = loop.snapshot.service_of_slot[session.service_slot]
    affinity_remember(loop, service, &session.parties.client, session.backend_slot)
    session.tries.slots[0] = session.backend_slot       # those before it get another chance
    session.tries.n = 1


cdef int _connect_to(
    loop_t *loop, session_t *session, const service_t *service, const backend_t *backend,
    event_fn on_answers,
) noexcept nogil:
    """FP_OK, FP_BAD: there is no way to it, FP_FULL: no descriptor, FP_PORTS: no port."""
    cdef int fd = -1
    cdef int result = outgoing_open_datagrams(service, backend, session.choice, &fd)
    if result != FP_OK:
        return result
    endpoint_init(&session.upstream, on_answers, session, fd, 0)
    datagram_prepare(fd, backend.address.any.sa_family)
    if loop_watch(loop, &session.upstream, EPOLLIN) != FP_OK:
        loop_close(loop, &session.upstream)
        return FP_FULL
    session.backend = backend.address
    session.backend_slot = backend.slot
    session.answered = False
    gauge(&loop.counters.backends[backend.slot].open, 1)
    gauge(&loop.counters.backends[backend.slot].active, 1)
    backend_connected(loop, backend.slot)       # whether it is there upstream_answered says
    return FP_OK


cdef int upstream_connect(
    loop_t *loop, session_t *session, event_fn on_answers
) noexcept nogil:
    cdef const service_t *service = loop.snapshot.service_of_slot[session.service_slot]
    cdef const backend_t *backend
    cdef int result
    while True:
        backend = affinity_choose(
            loop, service, &session.parties.client, session.choice, &session.tries
        )
        if backend == NULL:
            return FP_BAD
        result = _connect_to(loop, session, service, backend, on_answers)
        if result != FP_BAD:
            return result
        backend_refused(loop, backend.slot)
        outlier_failed(loop, backend.slot)
