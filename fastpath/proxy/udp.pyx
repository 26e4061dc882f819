"""UDP services: each client gets a socket to a backend, and datagrams go both ways.

A client's first datagram makes a session: a backend is chosen as for a TCP connection, and a socket
of its own is connected to it, so that the kernel takes only that backend's answers and tells of its
ICMP errors. Every datagram goes out as it came in, or not at all. Answers leave by the listener's
socket from the address that the client sent to.

A backend that refuses (ICMP port unreachable) is noted in the session as tried: what comes next
goes to the next choice. New tables end a session whose backend is down or gone; its client gets
another one with the next datagram.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from fastpath.abi cimport (
    CUT_BACKEND, DROP_DESCRIPTORS, DROP_GROUP, DROP_NO_BACKEND, DROP_TRUNCATED, DROP_UNSENT,
    FP_AGAIN, FP_BAD, FP_FULL, FP_OK, PROTOCOL_UDP, backend_t, listener_t, service_t, snapshot_t,
)
from fastpath.atomics cimport count, gauge
from fastpath.loop cimport (
    READABLE, backend_closed, backend_connected, backend_refused, endpoint_init, endpoint_t,
    loop_again, loop_arm, loop_close, loop_t, loop_watch,
)
from fastpath.memory.wheel cimport timeout_armed, timeout_disarm, timeout_t
from fastpath.proxy.balance cimport balance_choose, client_hash, flow_hash
from fastpath.proxy.datagram cimport datagram_receive, datagram_send, parties_t
from fastpath.proxy.outlier cimport outlier_answered, outlier_failed
from fastpath.proxy.sessions cimport (
    AGE_COUNT, AGE_REPLIED, DATAGRAM_SIZE, SESSIONS_MAX, session_t, sessions_add,
    sessions_expired, sessions_find, sessions_free, sessions_init, sessions_oldest,
    sessions_patience, sessions_remove, sessions_t, sessions_touch,
)
from fastpath.sys_linux cimport (
    EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, EPOLLIN, IPPROTO_UDP, MSG_NOSIGNAL,
    MSG_TRUNC, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, connect, ntohs, recv, send,
    sockaddr_any_t, socket,
)


cdef enum:
    DATAGRAMS_PER_TURN = 64     # of one socket, then the others get their turn


cdef inline sessions_t *_sessions(loop_t *loop) noexcept nogil:
    return <sessions_t *>loop.states[PROTOCOL_UDP]


cdef inline void _drop(loop_t *loop, int why) noexcept nogil:
    count(&loop.counters.dropped[why], 1)


# ---- a session's beginning and end ----

cdef void _disconnect(loop_t *loop, session_t *session) noexcept nogil:
    """Close the socket to the backend, if there is one."""
    if session.upstream.fd >= 0:
        loop_close(loop, &session.upstream)
        backend_closed(loop, session.backend_slot, True)


cdef void _end(loop_t *loop, session_t *session) noexcept nogil:
    _disconnect(loop, session)
    sessions_remove(_sessions(loop), session)
    gauge(&loop.counters.sessions, -1)


cdef void _refused(loop_t *loop, session_t *session) noexcept nogil:
    """Nobody listens there: what comes next goes to the next choice."""
    backend_refused(loop, session.backend_slot)
    outlier_failed(loop, session.backend_slot)
    _disconnect(loop, session)


cdef int _connect_to(loop_t *loop, session_t *session, const backend_t *backend) noexcept nogil:
    """FP_OK, FP_BAD: there is no way to it, FP_FULL: no descriptor."""
    cdef int fd = socket(
        backend.address.any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0
    )
    if fd < 0:
        return FP_FULL
    endpoint_init(&session.upstream, _on_answers, session, fd, 0)
    if connect(fd, &backend.address.any, backend.address_size) != 0:
        loop_close(loop, &session.upstream)
        return FP_BAD
    if loop_watch(loop, &session.upstream, EPOLLIN) != FP_OK:
        loop_close(loop, &session.upstream)
        return FP_FULL
    session.backend = backend.address
    session.backend_slot = backend.slot
    gauge(&loop.counters.backends[backend.slot].open, 1)
    gauge(&loop.counters.backends[backend.slot].active, 1)
    backend_connected(loop, backend.slot)
    return FP_OK


cdef int _connect(loop_t *loop, session_t *session) noexcept nogil:
    """Connect to the next choice. FP_OK, FP_BAD: nobody is left, FP_FULL: no descriptor."""
    cdef service_t *service = loop.snapshot.service_of_slot[session.service_slot]
    cdef backend_t *backend
    cdef int result
    while True:
        backend = balance_choose(loop, service, session.choice, &session.tries)
        if backend == NULL:
            return FP_BAD
        result = _connect_to(loop, session, backend)
        if result != FP_BAD:
            return result
        backend_refused(loop, backend.slot)
        outlier_failed(loop, backend.slot)


cdef session_t *_new(
    loop_t *loop, const listener_t *listener, uint64_t hash, const parties_t *parties
) noexcept nogil:
    """A session without a backend yet, in the place of the oldest one when there are too many."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef uint32_t n_max = min(loop.snapshot.sessions_max, <uint32_t>SESSIONS_MAX)
    cdef session_t *session
    while sessions.n > 0 and sessions.n >= n_max:
        _end(loop, sessions_oldest(sessions))
        count(&loop.counters.evicted, 1)
    session = sessions_add(sessions, hash, listener.slot, parties, loop.now_ms)
    session.choice = hash
    if listener.service.affinity:
        session.choice = client_hash(loop.hash_key, &parties.client)
    session.service_slot = listener.service.slot
    count(&loop.counters.listeners[listener.slot].accepted, 1)
    gauge(&loop.counters.sessions, 1)
    if not timeout_armed(&sessions.sweep):
        loop_arm(loop, &sessions.sweep, _sweep, sessions_patience(sessions, loop.now_ms))
    return session


# ---- datagrams ----

cdef void _forward(
    loop_t *loop, const listener_t *listener, const parties_t *parties, size_t size
) noexcept nogil:
    """Send what a client has sent to its session's backend, a new one if need be."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef uint64_t hash = flow_hash(
        loop.hash_key, &parties.client, &parties.local, IPPROTO_UDP
    )
    cdef session_t *session = sessions_find(sessions, hash, listener.slot, parties)
    cdef int result
    if session == NULL:
        session = _new(loop, listener, hash, parties)
    else:
        sessions_touch(sessions, session, session.age, loop.now_ms)
    while True:
        if session.upstream.fd < 0:
            result = _connect(loop, session)
            if result != FP_OK:
                _drop(loop, DROP_DESCRIPTORS if result == FP_FULL else DROP_NO_BACKEND)
                _end(loop, session)
                return
        if send(session.upstream.fd, sessions.datagram, size, MSG_NOSIGNAL) >= 0:
            count(&loop.counters.backends[session.backend_slot].bytes_in, size)
            return
        if errno == EAGAIN or errno == EMSGSIZE or errno == ENOBUFS or errno == ENOMEM:
            _drop(loop, DROP_UNSENT)
            return
        if errno != EINTR:
            _refused(loop, session)


cdef void _receive(
    loop_t *loop, const listener_t *listener, endpoint_t *endpoint
) noexcept nogil:
    """Take what clients have sent to a listener."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef uint16_t port = ntohs(listener.address.v4.sin_port)        # as in a sockaddr_in6
    cdef int left = DATAGRAMS_PER_TURN
    cdef parties_t parties
    cdef ssize_t n
    if sessions.table == NULL:
        return
    while left > 0:
        left -= 1
        n = datagram_receive(endpoint.fd, sessions.datagram, DATAGRAM_SIZE, port, &parties)
        if n >= 0:
            _forward(loop, listener, &parties, <size_t>n)
        elif n == FP_AGAIN:
            endpoint.ready &= ~READABLE
            return
        elif n == FP_FULL:
            _drop(loop, DROP_TRUNCATED)
        elif n == FP_BAD:
            _drop(loop, DROP_GROUP)
    loop_again(loop, endpoint)


cdef void _answer(loop_t *loop, session_t *session, size_t size) noexcept nogil:
    """Send what the backend has sent to the client."""
    cdef listener_t *listener = loop.snapshot.listener_of_slot[session.listener_slot]
    cdef sessions_t *sessions = _sessions(loop)
    sessions_touch(sessions, session, AGE_REPLIED, loop.now_ms)
    outlier_answered(loop, session.backend_slot)
    session.tries.slots[0] = session.backend_slot       # those before it get another chance
    session.tries.n = 1
    if datagram_send(
        listener.fds[loop.index], sessions.datagram, size, &session.parties
    ) != FP_OK:
        _drop(loop, DROP_UNSENT)
        return
    count(&loop.counters.backends[session.backend_slot].bytes_out, size)


cdef void _on_answers(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef session_t *session = <session_t *>endpoint.owner
    cdef int left = DATAGRAMS_PER_TURN
    cdef ssize_t n
    while left > 0:
        left -= 1
        n = recv(endpoint.fd, _sessions(loop).datagram, DATAGRAM_SIZE, MSG_TRUNC)
        if n > DATAGRAM_SIZE:
            _drop(loop, DROP_TRUNCATED)
        elif n >= 0:
            _answer(loop, session, <size_t>n)
        elif errno == EAGAIN:
            endpoint.ready &= ~READABLE
            return
        elif errno != EINTR:
            _refused(loop, session)
            return
    loop_again(loop, endpoint)


# ---- life ----

cdef void _sweep(loop_t *loop, timeout_t *timeout) noexcept nogil:
    """End the sessions that are silent for too long, and come back when the next one is."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef session_t *session
    while True:
        session = sessions_expired(sessions, loop.now_ms)
        if session == NULL:
            break
        _end(loop, session)
    if sessions.n > 0:
        loop_arm(loop, timeout, _sweep, sessions_patience(sessions, loop.now_ms))


cdef bint _is_stale(const snapshot_t *snapshot, const session_t *session) noexcept nogil:
    """Whether the tables do not lead the session's client to its backend any more."""
    cdef listener_t *listener = snapshot.listener_of_slot[session.listener_slot]
    cdef backend_t *backend
    if listener == NULL or listener.service == NULL:
        return True
    if listener.service.slot != session.service_slot or session.upstream.fd < 0:
        return True
    backend = snapshot.backend_of_slot[session.backend_slot]
    return (
        backend == NULL
        or not backend.up
        or memcmp(&backend.address, &session.backend, sizeof(sockaddr_any_t)) != 0
    )


cdef void _pick_up(loop_t *loop) noexcept nogil:
    cdef sessions_t *sessions = _sessions(loop)
    cdef session_t *session
    cdef session_t *older
    cdef uint32_t i
    if sessions.table == NULL:
        for i in range(loop.snapshot.n_listeners):
            if loop.snapshot.listeners[i].protocol == PROTOCOL_UDP:
                sessions_init(sessions)
                return
        return
    for i in range(<uint32_t>AGE_COUNT):
        session = sessions.ages[i].newest
        while session != NULL:
            older = session.older
            if _is_stale(loop.snapshot, session):
                _end(loop, session)
            session = older


cdef void _cut(loop_t *loop, uint8_t kind, uint16_t slot) noexcept nogil:
    cdef sessions_t *sessions = _sessions(loop)
    cdef session_t *session
    cdef session_t *older
    cdef int age
    for age in range(<int>AGE_COUNT):
        session = sessions.ages[age].newest
        while session != NULL:
            older = session.older
            if slot == (
                session.backend_slot if kind == CUT_BACKEND else session.listener_slot
            ):
                _end(loop, session)
            session = older


cdef int _init(loop_t *loop) noexcept nogil:
    loop.states[PROTOCOL_UDP] = calloc(1, sizeof(sessions_t))
    return FP_OK if loop.states[PROTOCOL_UDP] != NULL else FP_FULL


cdef void _free(loop_t *loop) noexcept nogil:
    cdef sessions_t *sessions = _sessions(loop)
    if sessions == NULL:
        return
    timeout_disarm(&sessions.sweep)
    while sessions.n > 0:
        _end(loop, sessions_oldest(sessions))
    sessions_free(sessions)
    free(sessions)
    loop.states[PROTOCOL_UDP] = NULL


cdef void udp_protocol(protocol_t *protocol) noexcept nogil:
    protocol.init = _init
    protocol.receive = _receive
    protocol.pick_up = _pick_up
    protocol.cut = _cut
    protocol.free = _free
