"""TCP services: each accepted connection gets one to a backend, and bytes go both ways.

A connection is first `connecting`: nothing is read from the client, so a backend that refuses or
does not answer in time can be replaced by the next choice. Then it is a pair of
fastpath.proxy.relay until its end. Two sockets that Engine.relay handed over are such a pair from
the beginning.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.abi cimport (
    CUT_BACKEND, FP_BAD, FP_FULL, FP_OK, PROTOCOL_TCP, REJECT_CAPACITY, REJECT_CONNECT,
    REJECT_DESCRIPTORS, REJECT_NO_BACKEND, RELAYS_BACKEND, RELAYS_LISTENER, backend_t, listener_t,
    service_t,
)
from fastpath.atomics cimport count, gauge
from fastpath.loop cimport (
    FAILED, READABLE, WRITABLE, backend_closed, backend_connected, backend_refused, endpoint_init,
    endpoint_t, loop_arm, loop_client_closed, loop_close, loop_connect, loop_t,
)
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put, slab_t
from fastpath.memory.wheel cimport timeout_disarm, timeout_t
from fastpath.proxy.balance cimport balance_choose, service_hash, tries_t
from fastpath.proxy.relay cimport pair_start, pair_stop, pair_t
from fastpath.sys_linux cimport IPPROTO_TCP, sockaddr_any_t


cdef struct stream_t:           # one proxied connection
    endpoint_t client           # not in epoll while connecting
    endpoint_t backend
    pair_t pair                 # its timeout also limits connecting
    stream_t *next              # in streams_t.first
    stream_t *previous
    uint64_t hash               # of the flow, or of its client
    uint32_t connect_timeout_ms
    uint16_t listener_slot
    uint16_t service_slot
    tries_t tries


cdef struct streams_t:          # the protocol's state in a loop
    slab_t slab
    stream_t *first             # every one that is open


cdef inline streams_t *_streams(loop_t *loop) noexcept nogil:
    return <streams_t *>loop.states[PROTOCOL_TCP]


cdef void _forget(loop_t *loop, stream_t *stream) noexcept nogil:
    """Give a stream back whose backend socket is closed and whose client is no longer ours."""
    cdef streams_t *streams = _streams(loop)
    if stream.next != NULL:
        stream.next.previous = stream.previous
    if stream.previous != NULL:
        stream.previous.next = stream.next
    else:
        streams.first = stream.next
    slab_put(&streams.slab, stream)


cdef void _ended(loop_t *loop, pair_t *pair) noexcept nogil:
    cdef stream_t *stream = <stream_t *>pair.owner
    backend_closed(loop, pair.backend_slot, True)
    loop_client_closed(loop, stream.listener_slot)
    _forget(loop, stream)


cdef int _connect(loop_t *loop, stream_t *stream) noexcept nogil:
    """Connect to the next choice. FP_OK, FP_BAD: nobody is left, FP_FULL: no descriptor."""
    cdef service_t *service = loop.snapshot.service_of_slot[stream.service_slot]
    cdef backend_t *backend
    cdef int result
    while service != NULL:
        backend = balance_choose(loop, service, stream.hash, &stream.tries)
        if backend == NULL:
            break
        result = loop_connect(loop, &stream.backend, backend, _connecting, stream)
        if result == FP_OK:
            stream.pair.backend_slot = backend.slot
            loop_arm(loop, &stream.pair.timeout, _connect_timed_out, stream.connect_timeout_ms)
            return FP_OK
        if result == FP_FULL:
            return FP_FULL
        backend_refused(loop, backend.slot)
    return FP_BAD


cdef void _connect_failed(loop_t *loop, stream_t *stream) noexcept nogil:
    """Try the next choice, or send the client away."""
    timeout_disarm(&stream.pair.timeout)
    backend_refused(loop, stream.pair.backend_slot)
    backend_closed(loop, stream.pair.backend_slot, True)
    loop_close(loop, &stream.backend)
    cdef int result = _connect(loop, stream)
    if result == FP_OK:
        return
    count(&loop.counters.rejected[
        REJECT_DESCRIPTORS if result == FP_FULL else REJECT_CONNECT
    ], 1)
    loop_close(loop, &stream.client)
    loop_client_closed(loop, stream.listener_slot)
    _forget(loop, stream)


cdef void _connecting(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    """News of the backend's socket before it is connected."""
    cdef stream_t *stream = <stream_t *>endpoint.owner
    if endpoint.ready & FAILED:
        _connect_failed(loop, stream)
    elif endpoint.ready & WRITABLE:
        timeout_disarm(&stream.pair.timeout)
        backend_connected(loop, stream.pair.backend_slot)
        pair_start(loop, &stream.pair)


cdef void _connect_timed_out(loop_t *loop, timeout_t *timeout) noexcept nogil:
    _connect_failed(loop, <stream_t *>(<pair_t *>timeout.owner).owner)


cdef stream_t *_new(
    loop_t *loop, uint16_t listener_slot, uint32_t idle_timeout_ms
) noexcept nogil:
    """A stream whose sockets are still to be filled in; NULL: no more are allowed."""
    cdef streams_t *streams = _streams(loop)
    cdef stream_t *stream = <stream_t *>slab_get(&streams.slab)
    if stream == NULL:
        return NULL
    memset(stream, 0, sizeof(stream_t))
    stream.pair.client = &stream.client
    stream.pair.backend = &stream.backend
    stream.pair.owner = stream
    stream.pair.timeout.owner = &stream.pair
    stream.pair.on_end = _ended
    stream.pair.idle_timeout_ms = idle_timeout_ms
    stream.listener_slot = listener_slot
    stream.next = streams.first
    if stream.next != NULL:
        stream.next.previous = stream
    streams.first = stream
    return stream


cdef int _accept(
    loop_t *loop, const listener_t *listener, int fd, const sockaddr_any_t *peer
) noexcept nogil:
    cdef service_t *service = listener.service
    cdef stream_t *stream = _new(loop, listener.slot, service.idle_timeout_ms)
    cdef int result, tried
    if stream == NULL:
        return -1 - REJECT_CAPACITY
    stream.connect_timeout_ms = service.connect_timeout_ms
    stream.service_slot = service.slot
    stream.hash = service_hash(loop.hash_key, service, peer, &listener.address, IPPROTO_TCP)
    endpoint_init(&stream.client, NULL, stream, fd, READABLE | WRITABLE)
    result = _connect(loop, stream)
    if result == FP_OK:
        return FP_OK
    tried = stream.tries.n
    _forget(loop, stream)
    if result == FP_FULL:
        return -1 - REJECT_DESCRIPTORS
    return -1 - (REJECT_CONNECT if tried > 0 else REJECT_NO_BACKEND)


cdef int tcp_relay(
    loop_t *loop, int client, int backend, uint32_t idle_timeout_ms
) noexcept nogil:
    cdef stream_t *stream = _new(loop, RELAYS_LISTENER, idle_timeout_ms)
    if stream == NULL:
        return FP_FULL
    stream.pair.backend_slot = RELAYS_BACKEND
    endpoint_init(&stream.client, NULL, stream, client, READABLE | WRITABLE)
    endpoint_init(&stream.backend, NULL, stream, backend, READABLE | WRITABLE)
    stream.client.shared = stream.backend.shared = True
    gauge(&loop.counters.backends[RELAYS_BACKEND].open, 1)
    gauge(&loop.counters.backends[RELAYS_BACKEND].active, 1)
    backend_connected(loop, RELAYS_BACKEND)
    pair_start(loop, &stream.pair)
    return FP_OK


cdef int _init(loop_t *loop) noexcept nogil:
    cdef streams_t *streams = <streams_t *>calloc(1, sizeof(streams_t))
    if streams == NULL:
        return FP_FULL
    loop.states[PROTOCOL_TCP] = streams
    return slab_init(&streams.slab, loop.capacity, sizeof(stream_t))


cdef void _pick_up(loop_t *loop) noexcept nogil:
    """Streams live on whatever the tables say: only new choices follow them."""


cdef void _cut(loop_t *loop, uint8_t kind, uint16_t slot) noexcept nogil:
    cdef stream_t *stream = _streams(loop).first
    cdef stream_t *following
    while stream != NULL:
        following = stream.next
        if slot == (
            stream.pair.backend_slot if kind == CUT_BACKEND else stream.listener_slot
        ):
            pair_stop(loop, &stream.pair, True)
        stream = following


cdef void _free(loop_t *loop) noexcept nogil:
    cdef streams_t *streams = _streams(loop)
    if streams == NULL:
        return
    while streams.first != NULL:
        pair_stop(loop, &streams.first.pair, False)
    slab_free(&streams.slab)
    free(streams)
    loop.states[PROTOCOL_TCP] = NULL


cdef void tcp_protocol(protocol_t *protocol) noexcept nogil:
    protocol.init = _init
    protocol.accept = _accept
    protocol.pick_up = _pick_up
    protocol.cut = _cut
    protocol.free = _free
