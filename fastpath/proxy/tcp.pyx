"""TCP services: each accepted connection gets one to a backend, and bytes go both ways.

From a trusted proxy a stream begins with a PROXY header, which says who the client is; it is peeked
at until it is whole, so what follows it stays in the socket. Then the stream is `connecting`:
nothing is read from the client, so a backend that refuses or does not answer in time can be
replaced by the next choice. Then it is a pair of fastpath.proxy.relay until its end. Two sockets
that Engine.relay handed over are such a pair from the beginning.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.abi cimport (
    CUT_BACKEND, END_BACKEND, END_BACKEND_RESET, END_CLIENT, END_CUT, END_DRAINED, END_STOPPED,
    FP_AGAIN, FP_BAD, FP_FULL, FP_OK, FP_PORTS, PROTOCOL_TCP, REJECT_CAPACITY, REJECT_CONNECT,
    REJECT_DESCRIPTORS, REJECT_NO_BACKEND, REJECT_PORTS, REJECT_PREFACE, RELAYS_BACKEND,
    RELAYS_LISTENER, RELAYS_SERVICE, backend_t, listener_t, service_t,
)
from fastpath.atomics cimport gauge
from fastpath.loop cimport (
    FAILED, PEER_ENDED, READABLE, WRITABLE, backend_closed, backend_connected, backend_refused,
    endpoint_init, endpoint_t, endpoint_write, loop_arm, loop_client_closed, loop_close,
    loop_connect, loop_reset, loop_t, loop_watch,
)
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put, slab_t
from fastpath.memory.wheel cimport timeout_disarm, timeout_t
from fastpath.proxy.accept_rate cimport accept_unused
from fastpath.proxy.admission cimport admission_enter, admission_leave
from fastpath.proxy.affinity cimport affinity_choose, affinity_remember
from fastpath.proxy.balance cimport service_hash
from fastpath.proxy.outlier cimport outlier_answered, outlier_failed
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.proxy.proxy_header cimport (
    PROXY_V2_SIZE_MAX, proxy_header_read, proxy_header_t, proxy_header_write,
)
from fastpath.proxy.relay cimport (
    EVICT_IDLE_MS, RELAY_DROPPING, pair_evict, pair_start, pair_stop, pair_t,
)
from fastpath.proxy.stream cimport (
    STREAM_CONNECTING, STREAM_PREFACE, STREAM_RELAYING, stream_connected, stream_ended,
    stream_rejected, stream_t,
)
from fastpath.sys_linux cimport (
    EAGAIN, EINTR, EPOLLIN, IPPROTO_TCP, MSG_PEEK, getsockname, recv, sockaddr_any_t, socklen_t,
)


cdef enum:
    PREFACE_MS = 3000           # for a PROXY header to be whole
    PEEK_SIZE = PROXY_V2_SIZE_MAX


cdef struct streams_t:          # the protocol's state in a loop
    slab_t slab
    stream_t *first             # every one that is open


cdef inline const service_t *_service(loop_t *loop, const stream_t *stream) noexcept nogil:
    """The stream's service as the tables have it now; NULL: they do not, or another in its slot."""
    cdef const service_t *service = loop.snapshot.service_of_slot[stream.service_slot]
    if service == NULL or service.born != stream.service_born:
        return NULL
    return service


cdef inline streams_t *_streams(loop_t *loop) noexcept nogil:
    return <streams_t *>loop.states[PROTOCOL_TCP]


# ---- its end ----

cdef void _forget(loop_t *loop, stream_t *stream) noexcept nogil:
    """Give a stream back whose sockets are closed."""
    cdef streams_t *streams = _streams(loop)
    admission_leave(loop, &stream.admitted)
    loop_client_closed(loop, stream.listener_slot)
    if stream.next != NULL:
        stream.next.previous = stream.previous
    if stream.previous != NULL:
        stream.previous.next = stream.next
    else:
        streams.first = stream.next
    slab_put(&streams.slab, stream)


cdef void _judge(loop_t *loop, const pair_t *pair) noexcept nogil:
    """Whether a backend that has sent nothing is to blame (outlier.pxd)."""
    if pair.is_answered:
        return
    if pair.end == END_BACKEND or pair.end == END_BACKEND_RESET:
        if pair.inward.moved > 0 or pair.inward.state == RELAY_DROPPING:
            outlier_failed(loop, pair.backend_slot)
    elif pair.end == END_CLIENT and pair.outward.source_ended:
        outlier_answered(loop, pair.backend_slot)   # it took all, and has nothing to say


cdef void _ended(loop_t *loop, pair_t *pair) noexcept nogil:
    cdef stream_t *stream = <stream_t *>pair.owner
    stream_ended(loop, stream)
    _judge(loop, pair)
    backend_closed(loop, pair.backend_slot, True)
    _forget(loop, stream)


cdef void _turn_away(loop_t *loop, stream_t *stream, int reason) noexcept nogil:
    """Close the client of a stream that has no socket to a backend."""
    stream_rejected(loop, stream, reason)
    timeout_disarm(&stream.pair.timeout)
    loop_close(loop, &stream.client)
    _forget(loop, stream)


cdef void _break_off(loop_t *loop, stream_t *stream, bint reset, uint8_t end) noexcept nogil:
    """End a stream whatever it is doing."""
    if stream.state == STREAM_RELAYING:
        pair_stop(loop, &stream.pair, reset, end)
        return
    timeout_disarm(&stream.pair.timeout)
    if stream.state == STREAM_CONNECTING:
        backend_closed(loop, stream.pair.backend_slot, True)
        loop_close(loop, &stream.backend)
    if reset:
        loop_reset(loop, &stream.client)
    else:
        loop_close(loop, &stream.client)
    _forget(loop, stream)


# ---- on the way to a backend ----

cdef int _connect_once(
    loop_t *loop, stream_t *stream, const service_t *service, const backend_t *backend
) noexcept nogil:
    """As loop_connect; when there is no descriptor left, a connection that is idle gives way."""
    cdef int result = loop_connect(
        loop, &stream.backend, service, backend, stream.hash, _connecting, stream
    )
    if result == FP_FULL and pair_evict(loop, EVICT_IDLE_MS):
        result = loop_connect(
            loop, &stream.backend, service, backend, stream.hash, _connecting, stream
        )
    return result


cdef int _connect(loop_t *loop, stream_t *stream) noexcept nogil:
    """Connect to the next choice: FP_OK; else a reason why not, as -1 - REJECT_*."""
    cdef const service_t *service = _service(loop, stream)
    cdef const backend_t *backend
    cdef bint lacks_ports = False
    cdef int result
    while service != NULL:
        backend = affinity_choose(
            loop, service, &stream.client_address, stream.hash, &stream.tries
        )
        if backend == NULL:
            break
        result = _connect_once(loop, stream, service, backend)
        if result == FP_OK:
            stream.state = STREAM_CONNECTING
            stream.connecting_us = loop.now_us
            stream.pair.backend_slot = backend.slot
            loop_arm(loop, &stream.pair.timeout, _connect_timed_out, stream.connect_timeout_ms)
            return FP_OK
        if result == FP_FULL:
            return -1 - REJECT_DESCRIPTORS
        if result == FP_PORTS:
            lacks_ports = True          # another backend may have some
        else:
            backend_refused(loop, backend.slot)
            outlier_failed(loop, backend.slot)
    if lacks_ports:
        return -1 - REJECT_PORTS
    return -1 - (REJECT_CONNECT if stream.tries.n > 0 else REJECT_NO_BACKEND)


cdef void _connect_or_turn_away(loop_t *loop, stream_t *stream) noexcept nogil:
    cdef int result = _connect(loop, stream)
    if result != FP_OK:
        _turn_away(loop, stream, -1 - result)


cdef void _connect_failed(loop_t *loop, stream_t *stream) noexcept nogil:
    """Try the next choice, or send the client away."""
    timeout_disarm(&stream.pair.timeout)
    backend_refused(loop, stream.pair.backend_slot)
    outlier_failed(loop, stream.pair.backend_slot)
    backend_closed(loop, stream.pair.backend_slot, True)
    loop_close(loop, &stream.backend)
    _connect_or_turn_away(loop, stream)


cdef bint _introduce(loop_t *loop, stream_t *stream) noexcept nogil:
    """Tell the backend who the client is, if it wants to know; False: it did not work."""
    cdef size_t size
    if stream.proxy_header == 0:
        return True
    size = proxy_header_write(
        loop.scratch, stream.proxy_header, &stream.client_address, &stream.local_address
    )
    # An empty socket takes it as a whole.
    return endpoint_write(&stream.backend, loop.scratch, size, False) == <ssize_t>size


cdef void _remember(loop_t *loop, const stream_t *stream) noexcept nogil:
    """Keep in mind where the client is, if its service asks for that."""
    cdef const service_t *service = _service(loop, stream)
    if service != NULL:
        affinity_remember(loop, service, &stream.client_address, stream.pair.backend_slot)


cdef void _connecting(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    """News of the backend's socket before it is connected."""
    cdef stream_t *stream = <stream_t *>endpoint.owner
    if endpoint.ready & FAILED or (endpoint.ready & WRITABLE and not _introduce(loop, stream)):
        _connect_failed(loop, stream)
    elif endpoint.ready & WRITABLE:
        timeout_disarm(&stream.pair.timeout)
        backend_connected(loop, stream.pair.backend_slot)
        stream_connected(loop, stream)
        _remember(loop, stream)
        stream.state = STREAM_RELAYING
        pair_start(loop, &stream.pair)


cdef void _connect_timed_out(loop_t *loop, timeout_t *timeout) noexcept nogil:
    _connect_failed(loop, <stream_t *>(<pair_t *>timeout.owner).owner)


# ---- its beginning ----

cdef stream_t *_new(
    loop_t *loop, uint16_t listener_slot, uint32_t idle_timeout_ms
) noexcept nogil:
    """A stream whose sockets are still to be filled in; NULL: no more are allowed."""
    cdef streams_t *streams = _streams(loop)
    cdef stream_t *stream = <stream_t *>slab_get(&streams.slab)
    if stream == NULL and pair_evict(loop, EVICT_IDLE_MS):
        stream = <stream_t *>slab_get(&streams.slab)
    if stream == NULL:
        return NULL
    memset(stream, 0, sizeof(stream_t))
    stream.pair.client = &stream.client
    stream.pair.backend = &stream.backend
    stream.pair.owner = stream
    stream.pair.timeout.owner = &stream.pair
    stream.pair.on_end = _ended
    stream.pair.idle_timeout_ms = idle_timeout_ms
    stream.accepted_us = loop.now_us
    stream.listener_slot = listener_slot
    stream.next = streams.first
    if stream.next != NULL:
        stream.next.previous = stream
    streams.first = stream
    return stream


cdef void _find_local(stream_t *stream) noexcept nogil:
    """Where the client connected to on a wildcard listener, for those who are told."""
    cdef socklen_t size = sizeof(stream.local_address)
    if stream.asks_local:
        getsockname(stream.client.fd, &stream.local_address.any, &size)


cdef void _begin(loop_t *loop, stream_t *stream, const service_t *service) noexcept nogil:
    """It is known who the client is: let it in, or not, and connect to a backend."""
    cdef int result
    # By the listener's address, even if it stands for all: a log must not move flows.
    stream.hash = service_hash(
        loop.hash_key, service, &stream.client_address, &stream.local_address, IPPROTO_TCP
    )
    _find_local(stream)
    result = admission_enter(loop, service, &stream.client_address, &stream.admitted)
    if result != FP_OK:
        accept_unused(loop, service)    # who may not come must not use up the others' rate
        _turn_away(loop, stream, -1 - result)
        return
    _connect_or_turn_away(loop, stream)


cdef void _ignore(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    """News of the client while its stream is connecting: `ready` remembers them."""


cdef bint _take_header(
    stream_t *stream, uint8_t *data, int size, const proxy_header_t *header
) noexcept nogil:
    """Take the header off the socket and note what it says."""
    if recv(stream.client.fd, data, <size_t>size, 0) != size:
        return False
    if not header.local:
        stream.client_address = header.source
        stream.local_address = header.destination
        stream.asks_local = False
    return True


cdef void _on_preface(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef stream_t *stream = <stream_t *>endpoint.owner
    cdef const service_t *service = _service(loop, stream)
    cdef proxy_header_t header
    cdef int size = FP_BAD
    cdef ssize_t n = recv(endpoint.fd, loop.scratch, PEEK_SIZE, MSG_PEEK)
    if n < 0 and (errno == EAGAIN or errno == EINTR):
        return
    if n > 0:
        size = proxy_header_read(loop.scratch, <size_t>n, &header)
    if size == FP_AGAIN and not endpoint.ready & PEER_ENDED:
        return                          # what comes next is an event of its own
    if size <= 0 or service == NULL or not _take_header(stream, loop.scratch, size, &header):
        _turn_away(loop, stream, REJECT_PREFACE)
        return
    timeout_disarm(&stream.pair.timeout)
    endpoint.on_event = _ignore
    _begin(loop, stream, service)


cdef void _preface_timed_out(loop_t *loop, timeout_t *timeout) noexcept nogil:
    _turn_away(loop, <stream_t *>(<pair_t *>timeout.owner).owner, REJECT_PREFACE)


cdef void _await_preface(loop_t *loop, stream_t *stream) noexcept nogil:
    stream.client.on_event = _on_preface
    if loop_watch(loop, &stream.client, EPOLLIN) != FP_OK:
        _turn_away(loop, stream, REJECT_DESCRIPTORS)
        return
    loop_arm(loop, &stream.pair.timeout, _preface_timed_out, PREFACE_MS)


cdef int _accept(
    loop_t *loop, const listener_t *listener, int fd, const sockaddr_any_t *peer
) noexcept nogil:
    cdef service_t *service = listener.service
    cdef stream_t *stream = _new(loop, listener.slot, service.idle_timeout_ms)
    if stream == NULL:
        return -1 - REJECT_CAPACITY
    stream.state = STREAM_PREFACE
    stream.service_slot = service.slot
    stream.service_born = service.born
    stream.connect_timeout_ms = service.connect_timeout_ms
    stream.logs = service.logs
    stream.proxy_header = service.proxy_header
    stream.client_address = peer[0]
    endpoint_init(&stream.client, NULL, stream, fd, READABLE | WRITABLE)
    stream.local_address = listener.address
    stream.asks_local = listener.wildcard and (stream.logs or stream.proxy_header != 0)
    if prefixes_have(&service.trusted, peer):
        _await_preface(loop, stream)
    else:
        _begin(loop, stream, service)
    return FP_OK


cdef int tcp_relay(
    loop_t *loop, int client, int backend, uint32_t idle_timeout_ms
) noexcept nogil:
    cdef stream_t *stream = _new(loop, RELAYS_LISTENER, idle_timeout_ms)
    if stream == NULL:
        return FP_FULL
    stream.service_slot = RELAYS_SERVICE
    stream.pair.backend_slot = RELAYS_BACKEND
    endpoint_init(&stream.client, NULL, stream, client, READABLE | WRITABLE)
    endpoint_init(&stream.backend, NULL, stream, backend, READABLE | WRITABLE)
    stream.client.shared = stream.backend.shared = True
    gauge(&loop.counters.backends[RELAYS_BACKEND].open, 1)
    gauge(&loop.counters.backends[RELAYS_BACKEND].active, 1)
    backend_connected(loop, RELAYS_BACKEND)
    stream.state = STREAM_RELAYING
    pair_start(loop, &stream.pair)
    return FP_OK


# ---- the protocol ----

cdef int _init(loop_t *loop) noexcept nogil:
    cdef streams_t *streams = <streams_t *>calloc(1, sizeof(streams_t))
    if streams == NULL:
        return FP_FULL
    loop.states[PROTOCOL_TCP] = streams
    return slab_init(&streams.slab, loop.capacity, sizeof(stream_t))


cdef void _pick_up(loop_t *loop) noexcept nogil:
    """Streams live on whatever the tables say: only new choices follow them."""


cdef bint _is_cut(const stream_t *stream, uint8_t kind, uint16_t slot) noexcept nogil:
    """Whether it came by that listener, or is or will be served by that backend."""
    if kind == CUT_BACKEND:
        return stream.state != STREAM_PREFACE and stream.pair.backend_slot == slot
    return stream.listener_slot == slot


cdef void _cut(loop_t *loop, uint8_t kind, uint16_t slot) noexcept nogil:
    cdef stream_t *stream = _streams(loop).first
    cdef stream_t *following
    while stream != NULL:
        following = stream.next
        if _is_cut(stream, kind, slot):
            _break_off(loop, stream, True, END_DRAINED if kind == CUT_BACKEND else END_CUT)
        stream = following


cdef void _free(loop_t *loop) noexcept nogil:
    cdef streams_t *streams = _streams(loop)
    if streams == NULL:
        return
    while streams.first != NULL:
        _break_off(loop, streams.first, False, END_STOPPED)
    slab_free(&streams.slab)
    free(streams)
    loop.states[PROTOCOL_TCP] = NULL


cdef void tcp_protocol(protocol_t *protocol) noexcept nogil:
    protocol.init = _init
    protocol.accept = _accept
    protocol.pick_up = _pick_up
    protocol.cut = _cut
    protocol.free = _free
