"""What a protocol sees of its worker: sockets on epoll, timeouts, buffers, snapshot, counters."""

from libc.errno cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from fastpath.abi cimport BUFFER_SIZE, FP_AGAIN, FP_FULL, FP_OK, FP_RESET, fp_assert, log_record_t
from fastpath.atomics cimport add_shared, gauge
from fastpath.memory.pipes cimport pipes_free
from fastpath.memory.ring cimport ring_free, ring_init
from fastpath.memory.slab cimport slab_free, slab_init
from fastpath.memory.wheel cimport wheel_advance, wheel_arm, wheel_idle, wheel_init, wheel_pop
from fastpath.outgoing cimport outgoing_open
from fastpath.sys_linux cimport (
    CLOCK_MONOTONIC, EAGAIN, ECONNRESET, EINTR, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT,
    EPOLLRDHUP, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, MSG_MORE, MSG_NOSIGNAL,
    MSG_PEEK, SHUT_WR, SOL_SOCKET, SO_ERROR, SO_LINGER, SPLICE_F_MOVE, SPLICE_F_NONBLOCK,
    clock_gettime, close, epoll_create1, epoll_ctl, getsockopt, linger, msghdr, recv, send,
    sendmsg, setsockopt, shutdown, socklen_t, splice, timespec,
)

cdef enum:
    SPARE_BUFFERS = 128         # for what is no client's: two for each of http's COPIES_MAX


# ---- the loop ----

cdef int loop_init(loop_t *self, uint16_t index, uint32_t capacity) noexcept nogil:
    memset(self, 0, sizeof(loop_t))
    self.index = index
    self.capacity = capacity
    loop_clock(self)
    wheel_init(&self.wheel, self.now_ms // TICK_MS)
    self.scratch = <uint8_t *>malloc(BUFFER_SIZE)
    self.epoll = epoll_create1(EPOLL_CLOEXEC)
    if (
        self.scratch == NULL
        or self.epoll < 0
        or slab_init(&self.buffers, 2 * capacity + SPARE_BUFFERS, BUFFER_SIZE) != FP_OK
        or ring_init(&self.log, LOG_SIZE, sizeof(log_record_t)) != FP_OK
    ):
        loop_free(self)
        return FP_FULL
    return FP_OK


cdef void loop_free(loop_t *self) noexcept nogil:
    pipes_free(&self.pipes)
    ring_free(&self.log)
    ring_free(&self.requests)
    fp_assert(self.buffers.n_used == 0)
    slab_free(&self.buffers)
    free(self.scratch)
    self.scratch = NULL
    if self.epoll >= 0:
        close(self.epoll)
        self.epoll = -1


cdef void loop_clock(loop_t *self) noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    self.now_us = <uint64_t>time.tv_sec * 1000000 + <uint64_t>time.tv_nsec // 1000
    self.now_ms = self.now_us // 1000


cdef int loop_patience(loop_t *self) noexcept nogil:
    if self.again != NULL:
        return 0
    cdef long ticks = wheel_idle(&self.wheel)
    if ticks < 0:
        return -1
    cdef uint64_t due_ms = (self.wheel.now + <uint64_t>ticks) * TICK_MS
    if due_ms <= self.now_ms:
        return 0
    return <int>(due_ms - self.now_ms) if due_ms - self.now_ms < 1000000 else 1000000


cdef void loop_dispatch(loop_t *self) noexcept nogil:
    cdef endpoint_t *endpoint
    cdef uint32_t events
    self.event_index = 0
    while self.event_index < self.n_events:
        endpoint = <endpoint_t *>self.events[self.event_index].data.ptr
        events = self.events[self.event_index].events
        self.event_index += 1
        if endpoint == NULL:                # closed by a handler of this very turn
            continue
        if events & EPOLLIN:
            endpoint.ready |= READABLE
        if events & EPOLLOUT:
            endpoint.ready |= WRITABLE
        if events & EPOLLRDHUP:
            endpoint.ready |= READABLE | PEER_ENDED
        if events & (EPOLLERR | EPOLLHUP):
            endpoint.ready |= READABLE | WRITABLE | FAILED
        endpoint.on_event(self, endpoint)
    self.n_events = 0


cdef void _unqueue(loop_t *self, endpoint_t *endpoint) noexcept nogil:
    """Take an endpoint out of the ring of those to call again."""
    endpoint.queued = False
    if endpoint.next == endpoint:
        self.again = NULL
        return
    endpoint.next.previous = endpoint.previous
    endpoint.previous.next = endpoint.next
    if self.again == endpoint:
        self.again = endpoint.next


cdef void loop_afterwards(loop_t *self) noexcept nogil:
    cdef endpoint_t *endpoint
    cdef timeout_t *timeout
    # Those who ask again while being served wait for the next turn: up to the last one of now.
    cdef endpoint_t *last = self.again.previous if self.again != NULL else NULL
    while last != NULL and self.again != NULL:
        endpoint = self.again
        if endpoint == last:
            last = NULL
        _unqueue(self, endpoint)
        endpoint.on_event(self, endpoint)
        if last != NULL and not last.queued:
            last = NULL
    wheel_advance(&self.wheel, self.now_ms // TICK_MS)
    while True:
        timeout = wheel_pop(&self.wheel)
        if timeout == NULL:
            break
        (<timeout_fn>timeout.fire)(self, timeout)


cdef void loop_again(loop_t *self, endpoint_t *endpoint) noexcept nogil:
    if endpoint.queued:
        return
    endpoint.queued = True
    if self.again == NULL:
        endpoint.next = endpoint
        endpoint.previous = endpoint
        self.again = endpoint
        return
    endpoint.next = self.again
    endpoint.previous = self.again.previous
    endpoint.previous.next = endpoint
    self.again.previous = endpoint


cdef void loop_arm(
    loop_t *self, timeout_t *timeout, timeout_fn fire, uint32_t delay_ms
) noexcept nogil:
    timeout.fire = <void *>fire
    wheel_arm(
        &self.wheel, timeout, (self.now_ms + delay_ms + TICK_MS - 1) // TICK_MS
    )


cdef void loop_client_closed(loop_t *self, uint16_t listener_slot) noexcept nogil:
    gauge(&self.counters.listeners[listener_slot].open, -1)
    gauge(&self.counters.clients, -1)
    add_shared(&self.common.clients, -1)


# ---- sockets ----

cdef void endpoint_init(
    endpoint_t *self, event_fn on_event, void *owner, int fd, uint8_t ready
) noexcept nogil:
    self.on_event = on_event
    self.owner = owner
    self.next = NULL
    self.previous = NULL
    self.fd = fd
    self.interest = 0
    self.ready = ready
    self.queued = False
    self.broken = False
    self.shared = False


cdef int loop_connect(
    loop_t *self, endpoint_t *endpoint, const service_t *service, const backend_t *backend,
    uint64_t hash, event_fn on_event, void *owner,
) noexcept nogil:
    cdef int fd = -1
    cdef int result = outgoing_open(service, backend, hash, &fd)
    endpoint_init(endpoint, on_event, owner, fd, 0)
    if result == FP_OK:
        result = loop_watch(self, endpoint, EPOLLIN | EPOLLOUT)
    if result != FP_OK:
        loop_close(self, endpoint)
        return result
    gauge(&self.counters.backends[backend.slot].open, 1)
    gauge(&self.counters.backends[backend.slot].active, 1)
    return FP_OK


cdef int loop_watch(loop_t *self, endpoint_t *endpoint, uint32_t events) noexcept nogil:
    cdef epoll_event event
    cdef uint32_t wanted = endpoint.interest | events | EPOLLRDHUP | EPOLLET
    if wanted == endpoint.interest:
        return FP_OK
    event.events = wanted
    event.data.ptr = endpoint
    if epoll_ctl(
        self.epoll,
        EPOLL_CTL_ADD if endpoint.interest == 0 else EPOLL_CTL_MOD,
        endpoint.fd,
        &event,
    ) != 0:
        return FP_FULL
    endpoint.interest = wanted
    return FP_OK


cdef void loop_close(loop_t *self, endpoint_t *endpoint) noexcept nogil:
    cdef uint32_t i
    if endpoint.queued:
        _unqueue(self, endpoint)
    if endpoint.fd < 0:
        return
    if endpoint.interest != 0:
        for i in range(self.event_index, self.n_events):
            if self.events[i].data.ptr == endpoint:
                self.events[i].data.ptr = NULL
        if endpoint.shared:
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, endpoint.fd, NULL)
    close(endpoint.fd)              # which also takes it out of epoll when nobody shares it
    endpoint.fd = -1
    endpoint.interest = 0
    endpoint.ready = 0


cdef void loop_reset(loop_t *self, endpoint_t *endpoint) noexcept nogil:
    cdef linger abort
    if endpoint.fd < 0:
        return
    abort.l_onoff = 1
    abort.l_linger = 0
    setsockopt(endpoint.fd, SOL_SOCKET, SO_LINGER, &abort, sizeof(abort))
    loop_close(self, endpoint)


cdef ssize_t endpoint_read(endpoint_t *self, void *data, size_t size) noexcept nogil:
    cdef ssize_t n
    fp_assert(self.fd >= 0)
    while True:
        n = recv(self.fd, data, size, 0)
        if n == 0 and self.broken:
            return FP_RESET
        if n >= 0:
            # Fewer than asked for: the queue is empty, and epoll will report what comes next. Not
            # so the end of the stream if it was reported with these bytes already.
            if <size_t>n < size and not self.ready & (PEER_ENDED | FAILED):
                self.ready &= ~READABLE
            return n
        if errno == EAGAIN:
            self.ready &= ~READABLE
            return FP_AGAIN
        if errno != EINTR:
            return FP_RESET


cdef inline ssize_t _written(endpoint_t *self, ssize_t n, size_t size) noexcept nogil:
    """What a send system call's result means."""
    if n >= 0:
        if <size_t>n < size:
            self.ready &= ~WRITABLE
        return n
    if errno == EAGAIN:
        self.ready &= ~WRITABLE
        return FP_AGAIN
    self.broken |= errno == ECONNRESET
    return FP_RESET


cdef ssize_t endpoint_write(
    endpoint_t *self, const void *data, size_t size, bint more
) noexcept nogil:
    cdef ssize_t n
    fp_assert(self.fd >= 0)
    while True:
        n = send(self.fd, data, size, MSG_NOSIGNAL | MSG_MORE if more else MSG_NOSIGNAL)
        if n >= 0 or errno != EINTR:
            return _written(self, n, size)


cdef ssize_t endpoint_writev(endpoint_t *self, iovec *parts, int n_parts) noexcept nogil:
    cdef msghdr message
    cdef size_t size = 0
    cdef ssize_t n
    cdef int i
    fp_assert(self.fd >= 0)
    for i in range(n_parts):
        size += parts[i].iov_len
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = n_parts
    while True:
        n = sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if n >= 0 or errno != EINTR:
            return _written(self, n, size)


cdef ssize_t endpoint_splice_in(endpoint_t *self, pipe_t *pipe, size_t size) noexcept nogil:
    cdef ssize_t n
    fp_assert(self.fd >= 0 and pipe.held == 0)
    while True:
        n = splice(
            self.fd, NULL, pipe.write_end, NULL, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if n == 0 and self.broken:
            return FP_RESET
        if n >= 0:
            # That it is less than asked for says nothing: a pipe is full when its slots are taken.
            pipe.held = <uint32_t>n
            return n
        if errno == EAGAIN:         # of the socket, for the pipe was empty
            self.ready &= ~READABLE
            return FP_AGAIN
        if errno != EINTR:
            return FP_RESET


cdef void endpoint_ask(endpoint_t *self) noexcept nogil:
    cdef char byte = 0
    if recv(self.fd, &byte, 1, MSG_PEEK) < 0 and errno == EAGAIN:
        self.ready &= ~READABLE


cdef ssize_t endpoint_splice_out(endpoint_t *self, pipe_t *pipe) noexcept nogil:
    cdef ssize_t n
    fp_assert(self.fd >= 0 and pipe.held > 0)
    while True:
        # There is no flag against SIGPIPE: the workers block it.
        n = splice(
            pipe.read_end, NULL, self.fd, NULL, pipe.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
        )
        if n > 0:
            # Fewer than asked for need not mean that the socket is full; ask until it says so.
            pipe.held -= <uint32_t>n
            return n
        if n < 0 and errno != EINTR:
            return _written(self, n, 0)
        if n == 0:
            return FP_RESET


cdef void endpoint_end(endpoint_t *self) noexcept nogil:
    shutdown(self.fd, SHUT_WR)


cdef int endpoint_error(endpoint_t *self) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    if getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0:
        return errno
    return error
