"""UDP services: each client gets a socket to a backend, and datagrams go both ways.

A client's first datagram makes a session: a backend is chosen as for a TCP connection, and a socket
of its own is connected to it. Answers leave by the listener's socket from the address that the
client sent to.

Datagrams are taken many at a time. Those of clients go out before the handler of the listener is
done, a session's together; answers are put aside, so that those of all backends that have some in
this turn go out together at its end.

New tables end a session whose backend is down or gone; its client gets another one with the next
datagram.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from fastpath.abi cimport (
    CUT_BACKEND, DROP_CLIENT, DROP_DESCRIPTORS, DROP_GROUP, DROP_NO_BACKEND, DROP_SERVICE,
    DROP_SOURCE, DROP_TRUNCATED, DROP_UNSENT, EVICTED_BY_CLIENT, EVICTED_BY_TABLE, FP_AGAIN, FP_BAD,
    FP_FULL, FP_OK, FP_RESET, PROTOCOL_UDP, REJECT_CLIENT, REJECT_SERVICE, REJECT_SOURCE,
    backend_counters_t, backend_t, listener_t, service_t, snapshot_t,
)
from fastpath.atomics cimport count, gauge
from fastpath.loop cimport FAILED, READABLE, endpoint_t, loop_again, loop_arm, loop_t
from fastpath.memory.wheel cimport timeout_armed, timeout_disarm, timeout_t
from fastpath.proxy.admission cimport admission_enter, admission_leave, admitted_t
from fastpath.proxy.balance cimport client_hash, flow_hash
from fastpath.proxy.batch cimport (
    RECEIVE_MAX, batch_clear, batch_drained, batch_is_full, batch_receive, batch_t, datagram_count,
    datagram_t,
)
from fastpath.proxy.datagram cimport (
    datagram_can_segment, datagram_local, datagram_refused, is_refusal, parties_t,
)
from fastpath.proxy.gather cimport gather_note, gather_wait_us
from fastpath.proxy.outbox cimport note_t, outbox_add, outbox_clear, outbox_send, outbox_t
from fastpath.proxy.sessions cimport (
    AGE_COUNT, EVERY_SERVICE, LIST_ALL, SESSIONS_MAX, ages_oldest, ages_t, client_t, session_t,
    sessions_add, sessions_answered, sessions_asked, sessions_expired, sessions_find, sessions_free,
    sessions_init, sessions_of, sessions_patience, sessions_remove, sessions_t, sessions_wait,
    sessions_waiting, WAY_IN, WAY_OUT,
)
from fastpath.proxy.upstream cimport (
    upstream_answered, upstream_close, upstream_connect, upstream_refused,
)
from fastpath.sys_linux cimport IPPROTO_UDP, MSG_TRUNC, sockaddr_any_t


cdef enum:
    MESSAGES_PER_TURN = 64      # of one socket, then the others get their turn
    # Of a worker's room one client may have a fourth, or so many sessions if that is more.
    CLIENT_SHARE = 4
    CLIENT_SESSIONS = 64


cdef inline sessions_t *_sessions(loop_t *loop) noexcept nogil:
    return <sessions_t *>loop.states[PROTOCOL_UDP]


cdef inline void _drop(loop_t *loop, int why, uint32_t n) noexcept nogil:
    count(&loop.counters.dropped[why], n)


cdef void _end(loop_t *loop, session_t *session) noexcept nogil:
    upstream_close(loop, session)
    admission_leave(loop, &session.admitted)
    sessions_remove(_sessions(loop), session)
    gauge(&loop.counters.sessions, -1)


cdef void _keep(
    loop_t *loop, session_t *session, datagram_t *datagram, uint8_t way
) noexcept nogil:
    """Let a message wait in its session until it is sent."""
    cdef sessions_t *sessions = _sessions(loop)
    if datagram.size > datagram.segment:
        count(&loop.counters.segments_received, datagram_count(datagram))
    gather_note(&sessions.gather, session.way == way)
    session.way = way
    sessions_wait(sessions, session, datagram)


# ---- what goes out ----

cdef void _count_sent(loop_t *loop, uint32_t first, bint answers) noexcept nogil:
    """Count the messages from `first` on that have been sent."""
    cdef outbox_t *outbox = &_sessions(loop).outbox
    cdef backend_counters_t *backend
    cdef note_t *note
    cdef uint32_t i
    for i in range(first, outbox.next):
        note = &outbox.notes[i]
        backend = &loop.counters.backends[(<session_t *>note.owner).backend_slot]
        count(&backend.bytes_out if answers else &backend.bytes_in, note.size - note.unsent)
        if note.n_unsent > 0:
            _drop(loop, DROP_UNSENT, note.n_unsent)
        if note.n > 1 and not note.apart[0]:
            count(&loop.counters.segments_sent, note.n)


cdef void _send_request(loop_t *loop, session_t *session) noexcept nogil:
    """Send what the outbox holds to the session's backend, or the next choice."""
    cdef outbox_t *outbox = &_sessions(loop).outbox
    cdef uint32_t first
    cdef int result = FP_OK
    while True:
        if session.upstream.fd < 0:
            result = upstream_connect(loop, session, _on_answers)
            if result != FP_OK:
                break
        first = outbox.next
        result = outbox_send(outbox, session.upstream.fd)
        _count_sent(loop, first, False)
        if result == FP_OK:
            return
        if result == FP_BAD:
            _drop(loop, DROP_UNSENT, outbox.notes[outbox.next].n)
            outbox.next += 1
        else:
            upstream_refused(loop, session)
    while outbox.next < outbox.n:
        _drop(
            loop, DROP_NO_BACKEND if result == FP_BAD else DROP_DESCRIPTORS,
            outbox.notes[outbox.next].n,
        )
        outbox.next += 1
    _end(loop, session)


cdef void _send_requests(loop_t *loop) noexcept nogil:
    """Send what clients have sent; the batch still holds it."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef datagram_t *message = NULL
    cdef session_t *session
    while True:
        session = sessions_waiting(sessions, &message)
        if session == NULL:
            return
        outbox_clear(&sessions.outbox)
        while message != NULL:
            outbox_add(
                &sessions.outbox, message, session, &session.requests_apart, NULL, False
            )
            message = message.next
        _send_request(loop, session)


cdef void _deliver(loop_t *loop, const listener_t *listener) noexcept nogil:
    """Send what the outbox holds to clients of that listener, and empty it."""
    cdef outbox_t *outbox = &_sessions(loop).outbox
    cdef uint32_t first
    cdef int result
    while outbox.next < outbox.n:
        first = outbox.next
        result = outbox_send(outbox, listener.fds[loop.index])
        _count_sent(loop, first, True)
        if result != FP_OK:
            _drop(loop, DROP_UNSENT, outbox.notes[outbox.next].n)
            outbox.next += 1
    outbox_clear(outbox)


cdef void _send_answers(loop_t *loop) noexcept nogil:
    """Send what backends have sent, and empty the batch."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef listener_t *listener = NULL
    cdef listener_t *following
    cdef datagram_t *message = NULL
    cdef session_t *session
    if sessions.first_waiting == NULL:
        return
    outbox_clear(&sessions.outbox)
    while True:
        session = sessions_waiting(sessions, &message)
        if session == NULL:
            break
        following = loop.snapshot.listener_of_slot[session.listener_slot]
        if listener != NULL and following != listener:
            _deliver(loop, listener)
        listener = following
        while message != NULL:
            outbox_add(
                &sessions.outbox, message, session, &session.answers_apart, &session.parties,
                listener.wildcard,
            )
            message = message.next
    _deliver(loop, listener)
    batch_clear(&sessions.batch)


# ---- what comes from clients ----

cdef void _evict(loop_t *loop, ages_t *ages, int why) noexcept nogil:
    """End the one that is to make room; or send what waits, when it is one of this turn."""
    cdef session_t *session = ages_oldest(ages)
    if session.first != NULL:
        _send_requests(loop)
        return
    _end(loop, session)
    count(&loop.counters.evicted[why], 1)


cdef void _make_room(
    loop_t *loop, const sockaddr_any_t *address, uint16_t service_slot
) noexcept nogil:
    """See that there is a place for one more session of a client, at its own cost if it has many.

    `service_slot`: that of its service, if the service itself limits its clients.
    """
    cdef sessions_t *sessions = _sessions(loop)
    cdef uint32_t n_max = min(loop.snapshot.sessions_max, <uint32_t>SESSIONS_MAX)
    cdef uint32_t share = max(n_max // CLIENT_SHARE, <uint32_t>CLIENT_SESSIONS)
    cdef client_t *client
    while service_slot == EVERY_SERVICE:
        client = sessions_of(sessions, address, service_slot)
        if client == NULL or client.n < share:
            break
        _evict(loop, client.ages, EVICTED_BY_CLIENT)
    while sessions.n > 0 and sessions.n >= n_max:
        _evict(loop, sessions.ages, EVICTED_BY_TABLE)


cdef int _admit(
    loop_t *loop, const service_t *service, const sockaddr_any_t *address, admitted_t *admitted
) noexcept nogil:
    """Whether a session may begin: FP_OK, or -1 - REJECT_*. A client's oldest gives way first."""
    cdef client_t *client
    cdef int result
    while True:
        result = admission_enter(loop, service, address, admitted)
        if result != -1 - REJECT_CLIENT:
            return result
        client = sessions_of(_sessions(loop), address, service.slot)
        if client == NULL:
            return result       # other workers have them
        _evict(loop, client.ages, EVICTED_BY_CLIENT)


cdef int _drop_of(int rejected) noexcept nogil:
    """DROP_* for REJECT_*."""
    if rejected == REJECT_SOURCE:
        return DROP_SOURCE
    return DROP_SERVICE if rejected == REJECT_SERVICE else DROP_CLIENT


cdef session_t *_new(
    loop_t *loop, const listener_t *listener, uint64_t hash, const parties_t *parties, int *why
) noexcept nogil:
    """A session without a backend yet; or NULL, and `why` is DROP_*."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef service_t *service = listener.service
    cdef uint16_t slot = service.slot if service.connections_per_source > 0 else EVERY_SERVICE
    cdef admitted_t admitted
    cdef session_t *session
    cdef int result = _admit(loop, service, &parties.client, &admitted)
    count(&loop.counters.listeners[listener.slot].accepted, 1)
    if result != FP_OK:
        why[0] = _drop_of(-1 - result)
        return NULL
    _make_room(loop, &parties.client, slot)
    session = sessions_add(sessions, hash, listener.slot, parties, slot, loop.now_ms)
    session.admitted = admitted
    session.choice = hash
    if service.affinity:
        session.choice = client_hash(loop.hash_key, &parties.client)
    session.service_slot = service.slot
    session.requests_apart = session.answers_apart = sessions.apart
    gauge(&loop.counters.sessions, 1)
    if not timeout_armed(&sessions.sweep):
        loop_arm(loop, &sessions.sweep, _sweep, sessions_patience(sessions, loop.now_ms))
    return session


cdef session_t *_session_of(
    loop_t *loop, const listener_t *listener, const parties_t *parties, session_t *before, int *why
) noexcept nogil:
    """The session that a datagram belongs to, or NULL as _new; `before`: that of the last one."""
    cdef uint64_t hash
    cdef session_t *session
    if before != NULL and memcmp(&before.parties, parties, sizeof(parties_t)) == 0:
        return before
    hash = flow_hash(loop.hash_key, &parties.client, &parties.local, IPPROTO_UDP)
    session = sessions_find(_sessions(loop), hash, listener.slot, parties)
    return session if session != NULL else _new(loop, listener, hash, parties, why)


cdef void _take_requests(loop_t *loop, const listener_t *listener) noexcept nogil:
    """Put the messages of the last call into their sessions."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef batch_t *batch = &sessions.batch
    cdef session_t *session = NULL
    cdef datagram_t *datagram
    cdef parties_t parties
    cdef uint32_t i
    cdef int why = 0
    for i in range(batch.n_received):
        datagram = &batch.datagrams[batch.n - batch.n_received + i]
        if batch.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
            _drop(loop, DROP_TRUNCATED, 1)
            continue
        memset(&parties, 0, sizeof(parties))
        parties.client = batch.names[i]
        if datagram_local(&batch.headers[i].msg_hdr, listener, &parties) != FP_OK:
            _drop(loop, DROP_GROUP, datagram_count(datagram))
            continue
        session = _session_of(loop, listener, &parties, session, &why)
        if session == NULL:
            _drop(loop, why, datagram_count(datagram))
            continue
        if session.first == NULL:
            sessions_asked(sessions, session, loop.now_ms)
        _keep(loop, session, datagram, WAY_IN)


cdef void _receive(
    loop_t *loop, const listener_t *listener, endpoint_t *endpoint
) noexcept nogil:
    """Take what clients have sent to a listener, and send it on."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef batch_t *batch = &sessions.batch
    cdef int left = MESSAGES_PER_TURN
    cdef int result = FP_OK
    if sessions.table == NULL:
        return
    _send_answers(loop)         # they are in the batch
    while left > 0 and result == FP_OK:
        left -= RECEIVE_MAX
        result = batch_receive(batch, endpoint.fd, True)
        _take_requests(loop, listener)
        if result == FP_AGAIN or (result == FP_OK and batch_drained(batch)):
            endpoint.ready &= ~READABLE
            break
        if batch_is_full(batch):
            _send_requests(loop)
            batch_clear(batch)
    _send_requests(loop)
    batch_clear(batch)
    if endpoint.ready & READABLE:
        loop_again(loop, endpoint)


# ---- what comes from backends ----

cdef void _take_answers(loop_t *loop, session_t *session) noexcept nogil:
    """Put the messages of the last call aside."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef batch_t *batch = &sessions.batch
    cdef datagram_t *datagram
    cdef uint32_t i
    for i in range(batch.n_received):
        datagram = &batch.datagrams[batch.n - batch.n_received + i]
        if batch.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
            _drop(loop, DROP_TRUNCATED, 1)
            continue
        if session.first == NULL:
            sessions_answered(sessions, session, loop.now_ms)
            upstream_answered(loop, session)
        _keep(loop, session, datagram, WAY_OUT)


cdef void _on_answers(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef session_t *session = <session_t *>endpoint.owner
    cdef batch_t *batch = &_sessions(loop).batch
    # Taken first, so that they do not hide the answers that came before them.
    cdef bint refused = endpoint.ready & FAILED and datagram_refused(endpoint.fd)
    cdef int left = MESSAGES_PER_TURN
    cdef int result
    endpoint.ready &= ~FAILED
    while left > 0:
        left -= RECEIVE_MAX
        if batch_is_full(batch):
            _send_answers(loop)
        result = batch_receive(batch, endpoint.fd, False)
        if result == FP_RESET and is_refusal(errno):
            refused = True      # it came between; what it hid is there still
            continue
        _take_answers(loop, session)
        if result == FP_AGAIN or (result == FP_OK and batch_drained(batch)):
            endpoint.ready &= ~READABLE
            break
    if refused:
        upstream_refused(loop, session)
    elif endpoint.ready & READABLE:
        loop_again(loop, endpoint)


cdef void _turned(loop_t *loop) noexcept nogil:
    cdef sessions_t *sessions = _sessions(loop)
    _send_answers(loop)
    loop.linger_us = gather_wait_us(&sessions.gather, loop.now_us)


# ---- life ----

cdef void _sweep(loop_t *loop, timeout_t *timeout) noexcept nogil:
    """End the sessions that are silent for too long, and come back when the next one is."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef session_t *session
    _send_answers(loop)
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


cdef void _begin(loop_t *loop) noexcept nogil:
    """Set memory aside if there is a UDP listener."""
    cdef sessions_t *sessions = _sessions(loop)
    cdef listener_t *listener
    cdef uint32_t i
    for i in range(loop.snapshot.n_listeners):
        listener = &loop.snapshot.listeners[i]
        if listener.protocol == PROTOCOL_UDP:
            sessions_init(sessions, loop.hash_key)
            sessions.apart = not datagram_can_segment(listener.fds[loop.index])
            return


cdef void _pick_up(loop_t *loop) noexcept nogil:
    cdef sessions_t *sessions = _sessions(loop)
    cdef session_t *session
    cdef session_t *older
    cdef int age
    if sessions.table == NULL:
        _begin(loop)
        return
    for age in range(<int>AGE_COUNT):
        session = sessions.ages[age].newest
        while session != NULL:
            older = session.links[<int>LIST_ALL].older
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
            older = session.links[<int>LIST_ALL].older
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
    cdef session_t *session
    if sessions == NULL:
        return
    timeout_disarm(&sessions.sweep)
    while sessions.n > 0:
        session = ages_oldest(sessions.ages)
        session.first = NULL
        _end(loop, session)
    sessions_free(sessions)
    free(sessions)
    loop.states[PROTOCOL_UDP] = NULL


cdef void udp_protocol(protocol_t *protocol) noexcept nogil:
    protocol.init = _init
    protocol.receive = _receive
    protocol.pick_up = _pick_up
    protocol.cut = _cut
    protocol.turned = _turned
    protocol.free = _free
