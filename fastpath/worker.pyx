"""One thread, one epoll loop: accepts, and lets the protocols work."""

from libc.errno cimport errno

from fastpath.abi cimport (
    CACHE_LINE, FP_FULL, FP_OK, PROTOCOL_HTTP, PROTOCOL_TCP, PROTOCOL_UDP, REJECT_CAPACITY,
    REJECT_COUNT, REJECT_DESCRIPTORS, RELAYS_LISTENER, backend_counters_t, fp_assert,
    fp_static_assert, listener_t, snapshot_t, times_t,
)
from fastpath.atomics cimport (
    add_shared, count, gauge, load_acquire, load_pointer, store_release,
)
from fastpath.http.gateway cimport http_protocol
from fastpath.loop cimport (
    LOOP_BATCH, READABLE, endpoint_init, loop_afterwards, loop_again, loop_arm, loop_client_closed,
    loop_clock, loop_close, loop_dispatch, loop_free, loop_init, loop_patience, loop_watch,
)
from fastpath.memory.ring cimport ring_free, ring_init, ring_put, ring_take
from fastpath.memory.pipes cimport pipes_allow
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.memory.wheel cimport timeout_disarm
from fastpath.proxy.accept_rate cimport accept_unused, accept_wait_ms
from fastpath.proxy.relay cimport EVICT_IDLE_MS, pair_evict
from fastpath.proxy.tcp cimport tcp_protocol, tcp_relay
from fastpath.proxy.udp cimport udp_protocol
from fastpath.sys_linux cimport (
    EAGAIN, EFD_CLOEXEC, EFD_NONBLOCK, EMFILE, ENFILE, ENOBUFS, ENOMEM,
    EPOLLIN, O_CLOEXEC, O_RDONLY, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, close, epoll_wait, eventfd,
    eventfd_read, eventfd_write, usleep, open as open_file, sockaddr_any_t, socklen_t,
)


cdef enum:
    ACCEPTS_PER_TURN = 64
    LAST_ACCEPTS = 4096         # of a listener that is being closed: its backlog
    PAUSE_MS = 100              # without descriptors


cdef enum accepted_t:
    ACCEPTED                    # or turned away; there may be more
    NOTHING_LEFT
    NO_DESCRIPTORS


cdef void worker_protocols(protocol_t *protocols) noexcept nogil:
    tcp_protocol(&protocols[<int>PROTOCOL_TCP])
    http_protocol(&protocols[<int>PROTOCOL_HTTP])
    udp_protocol(&protocols[<int>PROTOCOL_UDP])


# ---- accepting ----

cdef void _admit(
    worker_t *self, const listener_t *listener, int fd, const sockaddr_any_t *peer
) noexcept nogil:
    """Hand an accepted socket to its protocol, or close it and count why."""
    cdef loop_t *loop = &self.loop
    cdef int result = -1 - REJECT_CAPACITY
    cdef int64_t clients = add_shared(&self.shared.common.clients, 1)
    count(&loop.counters.listeners[listener.slot].accepted, 1)
    gauge(&loop.counters.listeners[listener.slot].open, 1)
    gauge(&loop.counters.clients, 1)
    # When all are taken, the longest idle one gives way, and so those that are busy live on.
    if clients <= loop.snapshot.clients_max or pair_evict(loop, EVICT_IDLE_MS):
        result = self.shared.protocols[listener.protocol].accept(loop, listener, fd, peer)
        if result == FP_OK:
            return
    fp_assert(0 <= -1 - result < REJECT_COUNT)
    count(&loop.counters.rejected[-1 - result], 1)
    loop_client_closed(loop, listener.slot)
    close(fd)


cdef bint _refuse_one(worker_t *self, int listening) noexcept nogil:
    """Out of descriptors: end an idle connection, or use the reserved one to close this one rather
    than let it wait.

    Whether that worked: another thread may have been quicker to take the descriptor.
    """
    cdef int fd = -1
    if pair_evict(&self.loop, EVICT_IDLE_MS):
        return True
    if self.reserve >= 0:
        close(self.reserve)
        fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd >= 0:
            close(fd)
            count(&self.loop.counters.rejected[REJECT_DESCRIPTORS], 1)
    self.reserve = open_file(b"/dev/null", O_RDONLY | O_CLOEXEC)
    return fd >= 0


cdef accepted_t _accept_one(worker_t *self, const listener_t *listener, int fd) noexcept nogil:
    cdef sockaddr_any_t peer
    cdef socklen_t size = sizeof(peer)
    cdef int accepted = accept4(fd, &peer.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if accepted >= 0:
        _admit(self, listener, accepted, &peer)
        return ACCEPTED
    if errno == EAGAIN:
        return NOTHING_LEFT
    if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
        return NO_DESCRIPTORS
    return ACCEPTED             # that one is gone already: EINTR, ECONNABORTED and the network's


cdef void _on_connections(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef worker_listener_t *place = <worker_listener_t *>endpoint.owner
    cdef worker_t *self = <worker_t *>loop
    cdef listener_t *listener = loop.snapshot.listener_of_slot[place.slot]
    cdef accepted_t outcome
    cdef uint32_t wait_ms
    cdef int left = ACCEPTS_PER_TURN
    while left > 0:
        left -= 1
        wait_ms = accept_wait_ms(loop, listener.service)
        if wait_ms > 0:
            loop_arm(loop, &place.pause, _pause_over, wait_ms)
            return
        outcome = _accept_one(self, listener, endpoint.fd)
        if outcome == NOTHING_LEFT:
            accept_unused(loop, listener.service)
            endpoint.ready &= ~READABLE
            return
        if outcome == NO_DESCRIPTORS and not _refuse_one(self, endpoint.fd):
            loop_arm(loop, &place.pause, _pause_over, PAUSE_MS)
            return
    loop_again(loop, endpoint)


cdef void _on_datagrams(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef worker_listener_t *place = <worker_listener_t *>endpoint.owner
    cdef worker_t *self = <worker_t *>loop
    cdef listener_t *listener = loop.snapshot.listener_of_slot[place.slot]
    self.shared.protocols[listener.protocol].receive(loop, listener, endpoint)


cdef void _pause_over(loop_t *loop, timeout_t *timeout) noexcept nogil:
    loop_again(loop, &(<worker_listener_t *>timeout.owner).endpoint)


# ---- snapshots ----

cdef void _close_listener(
    worker_t *self, worker_listener_t *place, const listener_t *listener
) noexcept nogil:
    """Take what has connected already, by the tables that it was in, and stop listening."""
    cdef bint accepts = self.shared.protocols[listener.protocol].accept != NULL
    cdef int left = LAST_ACCEPTS if accepts else 0
    while left > 0 and _accept_one(self, listener, place.endpoint.fd) == ACCEPTED:
        left -= 1
    timeout_disarm(&place.pause)
    loop_close(&self.loop, &place.endpoint)


cdef void _open_listener(worker_t *self, const listener_t *listener) noexcept nogil:
    cdef worker_listener_t *place = &self.listeners[listener.slot]
    cdef bint accepts = self.shared.protocols[listener.protocol].accept != NULL
    place.slot = listener.slot
    place.pause.owner = place
    endpoint_init(
        &place.endpoint, _on_connections if accepts else _on_datagrams, place,
        listener.fds[self.loop.index], READABLE,
    )
    loop_watch(&self.loop, &place.endpoint, EPOLLIN)


cdef void _cut(worker_t *self, const snapshot_t *snapshot, uint64_t seen) noexcept nogil:
    """Close the connections that are to be cut since the generation that was seen last."""
    cdef uint32_t i, j
    for i in range(snapshot.n_cuts):
        if snapshot.cuts[i].generation <= seen:
            continue
        for j in range(<uint32_t>PROTOCOL_COUNT):
            self.shared.protocols[j].cut(
                &self.loop, snapshot.cuts[i].kind, snapshot.cuts[i].slot
            )


cdef void worker_pick_up(worker_t *self) noexcept nogil:
    cdef snapshot_t *old = self.loop.snapshot
    cdef snapshot_t *snapshot = <snapshot_t *>load_pointer(<void **>&self.shared.snapshot)
    cdef worker_listener_t *place
    cdef listener_t *listener
    cdef uint32_t i
    if snapshot == old:
        return
    if old != NULL:
        for i in range(old.n_listeners):
            place = &self.listeners[old.listeners[i].slot]
            listener = snapshot.listener_of_slot[place.slot]
            if listener == NULL or listener.fds[self.loop.index] != place.endpoint.fd:
                _close_listener(self, place, &old.listeners[i])
    self.loop.snapshot = snapshot
    pipes_allow(&self.loop.pipes, snapshot.pipes_max)
    for i in range(snapshot.n_listeners):
        place = &self.listeners[snapshot.listeners[i].slot]
        if place.endpoint.fd < 0:
            _open_listener(self, &snapshot.listeners[i])
    _cut(self, snapshot, self.seen)
    for i in range(<uint32_t>PROTOCOL_COUNT):
        if self.shared.protocols[i].pick_up != NULL:
            self.shared.protocols[i].pick_up(&self.loop)
    # From here on nothing points to the old one.
    store_release(&self.seen, snapshot.generation)


# ---- what Python hands over ----

cdef int worker_hand(
    worker_t *self, int client, int backend, uint32_t idle_timeout_ms
) noexcept nogil:
    cdef handed_t handed
    handed.client = client
    handed.backend = backend
    handed.idle_timeout_ms = idle_timeout_ms
    if ring_put(&self.inbox, &handed) != FP_OK:
        return FP_FULL
    worker_wake(self)
    return FP_OK


cdef void _empty_inbox(worker_t *self) noexcept nogil:
    cdef loop_t *loop = &self.loop
    cdef handed_t handed
    while ring_take(&self.inbox, &handed) == FP_OK:
        gauge(&loop.counters.listeners[RELAYS_LISTENER].open, 1)
        gauge(&loop.counters.clients, 1)
        if tcp_relay(loop, handed.client, handed.backend, handed.idle_timeout_ms) != FP_OK:
            count(&loop.counters.rejected[REJECT_CAPACITY], 1)
            loop_client_closed(loop, RELAYS_LISTENER)
            close(handed.client)
            close(handed.backend)


# ---- life ----

cdef void _on_wake(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef worker_t *self = <worker_t *>loop
    cdef int i
    cdef uint64_t times = 0
    eventfd_read(endpoint.fd, &times)
    endpoint.ready = 0
    _empty_inbox(self)
    for i in range(PROTOCOL_COUNT):
        if self.shared.protocols[i].woken != NULL:
            self.shared.protocols[i].woken(loop)


cdef void worker_wake(worker_t *self) noexcept nogil:
    eventfd_write(self.wake.fd, 1)


cdef void _linger(loop_t *loop) noexcept nogil:
    """Wait before the next turn if that was asked for, and nothing has to be done at once."""
    if loop.linger_us > 0 and loop.again == NULL:
        usleep(loop.linger_us)
    loop.linger_us = 0


cdef void _turned(worker_t *self) noexcept nogil:
    cdef int i
    for i in range(PROTOCOL_COUNT):
        if self.shared.protocols[i].turned != NULL:
            self.shared.protocols[i].turned(&self.loop)


cdef void worker_run(worker_t *self) noexcept nogil:
    cdef loop_t *loop = &self.loop
    cdef int n
    while not load_acquire(&self.shared.stop):
        _linger(loop)
        n = epoll_wait(loop.epoll, loop.events, LOOP_BATCH, loop_patience(loop))
        loop.event_index = 0
        loop.n_events = <uint32_t>n if n > 0 else 0
        loop_clock(loop)
        count(&loop.counters.turns, 1)
        worker_pick_up(self)
        loop_dispatch(loop)
        loop_afterwards(loop)
        _turned(self)


cdef worker_t *worker_new(shared_t *shared, uint16_t index, uint32_t capacity) noexcept nogil:
    cdef slab_t memory
    cdef worker_t *self
    cdef bint good
    cdef int i
    fp_static_assert(sizeof(backend_counters_t) == CACHE_LINE)
    fp_static_assert(sizeof(times_t) % CACHE_LINE == 0)
    fp_static_assert(<size_t>&(<counters_t *>NULL).backends == 0)
    fp_static_assert(<size_t>&(<common_t *>NULL).log_wanted == CACHE_LINE)
    fp_static_assert(<size_t>&(<common_t *>NULL).log_wake == 2 * CACHE_LINE)
    if slab_init(&memory, 1, sizeof(worker_t)) != FP_OK:
        return NULL
    self = <worker_t *>slab_get(&memory)            # fresh pages are zero
    self.self_memory = memory
    if ring_init(&self.inbox, INBOX_SIZE, sizeof(handed_t)) != FP_OK:
        slab_free(&memory)
        return NULL
    self.shared = shared
    good = loop_init(&self.loop, index, capacity) == FP_OK
    self.reserve = open_file(b"/dev/null", O_RDONLY | O_CLOEXEC)
    endpoint_init(&self.wake, _on_wake, self, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), 0)
    for i in range(MAX_LISTENERS):
        self.listeners[i].endpoint.fd = -1
    good = good and slab_init(&self.counters_memory, 1, sizeof(counters_t)) == FP_OK
    self.loop.counters = <counters_t *>slab_get(&self.counters_memory)
    self.loop.common = shared.common
    self.loop.hash_key[0] = shared.hash_key[0]
    self.loop.hash_key[1] = shared.hash_key[1]
    for i in range(PROTOCOL_COUNT):
        if good and shared.protocols[i].init != NULL:
            good = shared.protocols[i].init(&self.loop) == FP_OK
    if not (
        good
        and self.reserve >= 0
        and self.wake.fd >= 0
        and loop_watch(&self.loop, &self.wake, EPOLLIN) == FP_OK
    ):
        worker_free(self)
        return NULL
    return self


cdef void worker_end(worker_t *self) noexcept nogil:
    cdef int i
    for i in range(PROTOCOL_COUNT):
        if self.shared.protocols[i].free != NULL:
            self.shared.protocols[i].free(&self.loop)


cdef void worker_free(worker_t *self) noexcept nogil:
    cdef slab_t memory = self.self_memory
    cdef handed_t handed
    cdef int i
    while ring_take(&self.inbox, &handed) == FP_OK:
        close(handed.client)
        close(handed.backend)
    ring_free(&self.inbox)
    worker_end(self)
    for i in range(MAX_LISTENERS):
        loop_close(&self.loop, &self.listeners[i].endpoint)
    loop_close(&self.loop, &self.wake)
    if self.reserve >= 0:
        close(self.reserve)
    loop_free(&self.loop)
    slab_free(&self.counters_memory)
    slab_free(&memory)
