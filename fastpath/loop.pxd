"""What a protocol sees of its worker: sockets on epoll, timeouts, buffers, the snapshot, counters.

One loop_t belongs to one worker thread; nothing here is safe from another thread. fastpath.worker
turns it; the protocols (fastpath.proxy.tcp, fastpath.http) are called back from it and never block.

Life of a socket: fill in an endpoint_t (endpoint_init; loop_connect for one towards a backend), try
to read and write at once, loop_watch when the kernel has no more, loop_close at the end. epoll is
edge-triggered: the loop ORs what it hears into `ready` and calls `on_event`; endpoint_read and
endpoint_write take the bits back when the kernel says EAGAIN. So a handler that stops before EAGAIN
(out of budget) must call loop_again, or keep in mind that `ready` still says READABLE: no new event
will come for the bytes it left.

After loop_close no event, loop_again or pending epoll event reaches the endpoint any more, so the
object that holds it may go back to its slab at once (take care of the callers up the stack).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport (
    PROTOCOL_COUNT,
    backend_t,
    common_t,
    counters_t,
    listener_t,
    service_t,
    snapshot_t,
)
from fastpath.atomics cimport count, gauge
from fastpath.memory.pipes cimport pipe_t, pipes_t
from fastpath.memory.ring cimport ring_t
from fastpath.memory.slab cimport slab_t, slab_get, slab_put
from fastpath.memory.wheel cimport timeout_t, wheel_t
from fastpath.sys_linux cimport epoll_event, iovec, sockaddr_any_t


cdef enum:
    LOOP_BATCH = 128            # events taken from the kernel in one turn
    TICK_MS = 16                # of the timer wheel
    LOG_SIZE = 4096             # records of one worker that Python has not read yet


# Bits of endpoint_t.ready.
cdef enum:
    READABLE = 1                # a read may give bytes, the end or an error
    WRITABLE = 2
    PEER_ENDED = 4              # EPOLLRDHUP: the end of the stream has arrived
    FAILED = 8                  # EPOLLERR or EPOLLHUP; comes with READABLE and WRITABLE


ctypedef void (*event_fn)(loop_t *loop, endpoint_t *endpoint) noexcept nogil
ctypedef void (*timeout_fn)(loop_t *loop, timeout_t *timeout) noexcept nogil


cdef struct endpoint_t:         # one socket; embedded in what owns it
    event_fn on_event           # called with `ready` brought up to date
    void *owner                 # for `on_event`; borrowed
    endpoint_t *next            # in loop_t.again
    endpoint_t *previous
    int fd                      # owned; -1: closed
    uint32_t interest           # what epoll was told; 0: not registered
    uint8_t ready
    uint8_t queued              # is in loop_t.again
    uint8_t broken              # a write has heard of a reset; the kernel tells it only once
    uint8_t shared              # another descriptor, not ours, may keep the socket alive


# A kind of traffic. Its state hangs on loop_t.states[its index].
cdef struct protocol_t:
    # Set aside memory in loop_t.states; FP_OK or FP_FULL.
    int (*init)(loop_t *loop) noexcept nogil
    # Take over an accepted socket (non-blocking, TCP_NODELAY set). FP_OK: `fd` is the protocol's,
    # and it calls loop_client_closed once when it has closed it. Else -1 - REJECT_*: the worker
    # counts the reason and closes the socket.
    int (*accept)(
        loop_t *loop, const listener_t *listener, int fd, const sockaddr_any_t *peer
    ) noexcept nogil
    # Instead of `accept`, for datagrams: the listener's socket may have some.
    void (*receive)(
        loop_t *loop, const listener_t *listener, endpoint_t *endpoint
    ) noexcept nogil
    # loop_t.snapshot is a new one: let go of idle upstream sockets whose backend is gone, and of
    # idle clients when it says `draining`.
    void (*pick_up)(loop_t *loop) noexcept nogil
    # Close, with a reset, every connection of that listener or to that backend (CUT_*).
    void (*cut)(loop_t *loop, uint8_t kind, uint16_t slot) noexcept nogil
    # Python has handed something over. NULL: it never does.
    void (*woken)(loop_t *loop) noexcept nogil
    # The worker's turn is over: send what was put aside in it. NULL: nothing ever is.
    void (*turned)(loop_t *loop) noexcept nogil
    # Close every socket and free the memory; the worker has ended.
    void (*free)(loop_t *loop) noexcept nogil


cdef struct ages_of_pairs_t:    # fastpath.proxy.relay's pair_t
    void *newest
    void *oldest


cdef struct loop_t:
    snapshot_t *snapshot        # borrowed, for this turn only; never NULL while protocols run
    counters_t *counters        # owned by the worker; this thread alone writes
    common_t *common            # what all workers share; borrowed from the engine
    uint64_t now_us             # CLOCK_MONOTONIC, read once a turn
    uint64_t now_ms
    uint64_t hash_key[2]        # of the flow hash
    uint32_t capacity           # client connections this worker can hold: size slabs by it
    uint16_t index              # which worker: listener_t.fds[index]
    int epoll
    void *states[PROTOCOL_COUNT]
    slab_t buffers              # of BUFFER_SIZE: two for each client connection
    pipes_t pipes
    ring_t log                  # of log_record_t, for Engine.read_log
    ring_t requests             # of fastpath.http.records' request_record_t, likewise
    ages_of_pairs_t pairs[2]    # those under way, by relay.pxd's PAIRS_*
    wheel_t wheel
    uint8_t *scratch            # BUFFER_SIZE; content is lost when a handler returns
    endpoint_t *again           # ring of endpoints to call next turn
    uint32_t linger_us          # a protocol wants the next turn so much later; for once
    uint32_t event_index        # of the event being handled
    uint32_t n_events
    epoll_event events[LOOP_BATCH]


# FP_OK or FP_FULL (and nothing is left behind).
cdef int loop_init(loop_t *self, uint16_t index, uint32_t capacity) noexcept nogil
cdef void loop_free(loop_t *self) noexcept nogil
# One turn's parts, for the worker: milliseconds to wait for at most (-1: for ever), …
cdef int loop_patience(loop_t *self) noexcept nogil
# … read the clock, …
cdef void loop_clock(loop_t *self) noexcept nogil
# … call the handlers of the events that came in, …
cdef void loop_dispatch(loop_t *self) noexcept nogil
# … of the endpoints that asked for it, and the timeouts.
cdef void loop_afterwards(loop_t *self) noexcept nogil


# A socket that is open already. `ready`: what is worth trying before epoll says so.
cdef void endpoint_init(
    endpoint_t *self, event_fn on_event, void *owner, int fd, uint8_t ready
) noexcept nogil

# Open a socket and begin to connect. FP_OK: `on_event` will come with WRITABLE, and FAILED when it
# did not work; else as fastpath.outgoing, and nothing is open.
# Counts the socket as open and active: say backend_closed when you close it.
cdef int loop_connect(
    loop_t *self,
    endpoint_t *endpoint,
    const service_t *service,
    const backend_t *backend,
    uint64_t hash,
    event_fn on_event,
    void *owner,
) noexcept nogil

# Make sure that epoll reports `events` (EPOLLIN, EPOLLOUT) of the endpoint, and the end of the
# stream. Costs a system call only when something is added. FP_OK or FP_FULL.
cdef int loop_watch(loop_t *self, endpoint_t *endpoint, uint32_t events) noexcept nogil

# Close the socket; harmless on a closed one. What was written still gets sent.
cdef void loop_close(loop_t *self, endpoint_t *endpoint) noexcept nogil
# Close it with a reset: what is not yet acknowledged is dropped, the peer gets an error.
cdef void loop_reset(loop_t *self, endpoint_t *endpoint) noexcept nogil
# Call `on_event` in the next turn even if the kernel has no news.
cdef void loop_again(loop_t *self, endpoint_t *endpoint) noexcept nogil

# Call `fire` after `delay_ms` or up to two ticks later; re-arms. Set `owner` before. Undo with
# fastpath.memory.wheel.timeout_disarm: a must before the object that holds it is given back.
cdef void loop_arm(
    loop_t *self, timeout_t *timeout, timeout_fn fire, uint32_t delay_ms
) noexcept nogil

# The protocol has closed a client's socket that it took over in `accept`; the slot is that of the
# listener it came from.
cdef void loop_client_closed(loop_t *self, uint16_t listener_slot) noexcept nogil

# > 0 bytes, 0 the end of the stream (or size 0), FP_AGAIN, FP_RESET.
cdef ssize_t endpoint_read(endpoint_t *self, void *data, size_t size) noexcept nogil
# >= 0 bytes taken (when fewer than asked for, WRITABLE is off), FP_AGAIN, FP_RESET. `more`: further
# bytes follow in a moment (MSG_MORE).
cdef ssize_t endpoint_write(
    endpoint_t *self, const void *data, size_t size, bint more
) noexcept nogil
cdef ssize_t endpoint_writev(endpoint_t *self, iovec *parts, int n_parts) noexcept nogil
# Move up to `size` bytes from the socket into an empty pipe, as endpoint_read.
cdef ssize_t endpoint_splice_in(endpoint_t *self, pipe_t *pipe, size_t size) noexcept nogil
# Take READABLE off when nothing waits to be read: splicing leaves it on.
cdef void endpoint_ask(endpoint_t *self) noexcept nogil
# Move what the pipe holds to the socket, as endpoint_write.
cdef ssize_t endpoint_splice_out(endpoint_t *self, pipe_t *pipe) noexcept nogil
# No more bytes to the peer (FIN).
cdef void endpoint_end(endpoint_t *self) noexcept nogil
# 0, or why connecting failed.
cdef int endpoint_error(endpoint_t *self) noexcept nogil


cdef inline void backend_connected(loop_t *self, uint16_t slot) noexcept nogil:
    """Connecting worked."""
    count(&self.counters.backends[slot].connections, 1)


cdef inline void backend_refused(loop_t *self, uint16_t slot) noexcept nogil:
    """Connecting failed or took too long."""
    count(&self.counters.backends[slot].connect_failures, 1)


cdef inline void backend_parked(loop_t *self, uint16_t slot) noexcept nogil:
    """An active socket went idle into a pool."""
    gauge(&self.counters.backends[slot].active, -1)


cdef inline void backend_taken(loop_t *self, uint16_t slot) noexcept nogil:
    """An idle socket was taken out of a pool."""
    gauge(&self.counters.backends[slot].active, 1)


cdef inline void backend_closed(loop_t *self, uint16_t slot, bint active) noexcept nogil:
    """A socket that was active or idle is closed."""
    gauge(&self.counters.backends[slot].open, -1)
    if active:
        gauge(&self.counters.backends[slot].active, -1)


cdef inline uint8_t *buffer_get(loop_t *self) noexcept nogil:
    """BUFFER_SIZE bytes with arbitrary content, or NULL."""
    return <uint8_t *>slab_get(&self.buffers)


cdef inline void buffer_put(loop_t *self, uint8_t *buffer) noexcept nogil:
    """Give a buffer back."""
    slab_put(&self.buffers, buffer)
