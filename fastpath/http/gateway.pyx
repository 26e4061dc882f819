"""Client connections: requests one after the other, their timeouts, and the end.

A connection is always in one client_state_t. `run` goes from step to step until the kernel has
nothing more for it; events and timeouts come in through `run` and `settle`, nowhere else.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport (
    BUFFER_SIZE, CUT_BACKEND, END_CUT, END_STOPPED, FP_AGAIN, FP_FULL, FP_OK, MAX_BACKENDS,
    PROTOCOL_HTTP, REJECT_CAPACITY, fp_assert, gateway_t, listener_t,
)
from fastpath.http.access cimport access_done, access_ends, access_moved, access_tunnel
from fastpath.http.checks cimport checks_free, checks_hear, checks_init
from fastpath.http.coders cimport coders_free, coders_init
from fastpath.http.dispatch cimport (
    dispatch_called, dispatch_checked, dispatch_connected, dispatch_copy, dispatch_refused,
    dispatch_request, dispatch_resume,
)
from fastpath.http.entry cimport entry_connection, entry_leave
from fastpath.http.exchange cimport (
    exchange_answer, exchange_answering, exchange_count, exchange_drive, exchange_expired,
)
from fastpath.http.filters.chain cimport filters_done
from fastpath.http.flow cimport flow_clear, flow_rewind, flow_room, flow_t, flow_trim
from fastpath.http.forward cimport FORWARD_SIZE_MAX
from fastpath.http.forwarded cimport peer_init
from fastpath.http.http1 cimport (
    HEAD_DONE, HEAD_REQUEST, METHOD_OTHER, REFUSE_BUSY, REFUSE_CHECKS_BUSY, REFUSE_HEADER_TIMEOUT,
    REFUSE_QUEUE_TIMEOUT, REFUSE_TIMEOUT, head_init, head_scan, head_t, refusal_t,
)
from fastpath.http.mirror cimport mirror_cut, mirror_end
from fastpath.http.pool cimport pool_close, pool_limit, pool_review
from fastpath.http.queue cimport queue_leave
from fastpath.http.records cimport ENDED_CUT, ENDED_STOPPED, REQUESTS_SIZE, request_record_t
from fastpath.http.request_id cimport request_ids_init
from fastpath.http.state cimport (
    CLIENT_ANSWER, CLIENT_BACKOFF, CLIENT_CHECKING, CLIENT_CONNECTING, CLIENT_EXCHANGE,
    CLIENT_HEAD, CLIENT_IDLE, CLIENT_LINGER, CLIENT_TUNNEL, CLIENT_WAITING, COPIES_MAX,
    HEARS_COPY, STEP_CLOSE, STEP_CUT, STEP_GO, STEP_LINGER, STEP_NEXT, STEP_TUNNEL, STEP_WAIT,
    asker_t, client_t, http_of, http_t, question_t, request_ended, upstream_t,
)
from fastpath.loop cimport (
    FAILED, PEER_ENDED, READABLE, TICK_MS, WRITABLE, endpoint_end, endpoint_init, endpoint_read,
    endpoint_t, loop_again, loop_arm, loop_client_closed, loop_close, loop_reset, loop_t,
    loop_watch, protocol_t,
)
from fastpath.memory.ring cimport ring_init
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put, slab_t
from fastpath.memory.wheel cimport timeout_armed, timeout_disarm, timeout_t
from fastpath.proxy.balance cimport client_hash, flow_hash
from fastpath.proxy.relay cimport pair_start, pair_stop, pair_t
from fastpath.sys_linux cimport EPOLLIN, IPPROTO_TCP, getsockname, sockaddr_any_t, socklen_t

cdef enum:
    REQUESTS_PER_TURN = 32      # pipelined ones of one client before others get their turn
    LINGER_MS = 2000            # to let an answer arrive before the socket is closed
    LINGER_READS = 16           # per turn


# ---- a request comes in ----

cdef int read_head(loop_t *loop, client_t *client) noexcept nogil:
    """Read until a request's head is complete; it lies at the front of the buffer."""
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.request
    cdef ssize_t n
    cdef int code
    while True:
        if flow.raw_end > 0:
            if client.head == NULL and not begin_head(loop, client):
                return -REFUSE_BUSY
            code = head_scan(client.head, flow.buffer, flow.raw_end)
            if code < 0:
                client.method = client.head.method
                return code
            if code == HEAD_DONE:
                return dispatch_request(loop, client)
        if not client.io.ready & READABLE:
            flow_trim(loop, &http.stores, flow)
            return STEP_WAIT if loop_watch(loop, &client.io, EPOLLIN) == FP_OK else STEP_CUT
        n = flow_room(loop, flow)
        if n == 0:
            return STEP_CUT
        n = endpoint_read(&client.io, flow.buffer + flow.raw_end, n)
        if n == 0:
            return STEP_CLOSE
        if n > 0:
            flow.raw_end += <uint16_t>n
        elif n != FP_AGAIN:
            return STEP_CUT


cdef bint begin_head(loop_t *loop, client_t *client) noexcept nogil:
    """The first byte of a request."""
    client.head = <head_t *>slab_get(&http_of(loop).stores.heads)
    if client.head == NULL:
        return False
    head_init(client.head, HEAD_REQUEST)
    client.state = CLIENT_HEAD
    client.begun_us = loop.now_us
    client.deadline_ms = loop.now_ms + client.header_timeout_ms
    return True


cdef void leave(loop_t *loop, client_t *client) noexcept nogil:
    """The exchange is over, however it ended: told, and counted no more. Harmless without one."""
    access_done(loop, client)
    filters_done(loop, client)
    request_ended(http_of(loop), client)
    queue_leave(loop, client)


cdef void rest(loop_t *loop, client_t *client) noexcept nogil:
    """Between requests."""
    leave(loop, client)
    client.state = CLIENT_IDLE
    client.deadline_ms = loop.now_ms + client.keepalive_timeout_ms
    client.total_deadline_ms = 0
    client.method = METHOD_OTHER
    client.status = 0
    client.n_retries = 0
    client.is_old = client.wants_keep = client.has_body = client.has_route = False
    flow_rewind(&client.request)
    flow_trim(loop, &http_of(loop).stores, &client.request)


# ---- steps ----

cdef int step_of(loop_t *loop, client_t *client) noexcept nogil:
    """Go on in the state that the connection is in."""
    if client.state <= CLIENT_HEAD:
        return read_head(loop, client)
    if client.state == CLIENT_EXCHANGE:
        return exchange_drive(loop, client)
    if client.state in (CLIENT_CONNECTING, CLIENT_BACKOFF, CLIENT_WAITING):
        if client.io.ready & FAILED:
            return STEP_CUT
        return dispatch_called(loop, client) if client.state == CLIENT_WAITING else STEP_WAIT
    if client.state == CLIENT_CHECKING:
        return STEP_CUT if client.io.ready & FAILED else dispatch_checked(loop, client)
    if client.state == CLIENT_ANSWER:
        return exchange_answering(loop, client)
    return linger(loop, client)


cdef void run(loop_t *loop, client_t *client) noexcept nogil:
    """Go on as far as it goes. The client may be gone afterwards."""
    cdef int _round
    for _round in range(REQUESTS_PER_TURN):
        if not settle(loop, client, step_of(loop, client)):
            return
    loop_again(loop, &client.io)


cdef bint settle(loop_t *loop, client_t *client, int step) noexcept nogil:
    """Do what a step says; whether there may be more to do at once."""
    if client.hears == HEARS_COPY and step != STEP_WAIT and step != STEP_GO:
        mirror_end(loop, client)
        return False
    if step < 0:
        step = exchange_answer(loop, client, <refusal_t>(-step))
    if step == STEP_WAIT:
        arm(loop, client)
        return False
    if step == STEP_GO:
        return True
    if step == STEP_NEXT:
        rest(loop, client)
        return True
    if step == STEP_TUNNEL:
        open_tunnel(loop, client)
        return False
    if step == STEP_LINGER or (step == STEP_CLOSE and has_unread(loop, client)):
        begin_linger(loop, client)
        return True
    if step == STEP_CUT and client.cut_by_reset:
        loop_reset(loop, &client.io)
    client_free(loop, client)
    return False


cdef bint has_unread(loop_t *loop, client_t *client) noexcept nogil:
    """Whether closing now would reset the connection, for there are bytes that nobody read."""
    if client.request.raw_start < client.request.raw_end:
        return True
    if not client.io.ready & READABLE:
        return False
    return endpoint_read(&client.io, loop.scratch, BUFFER_SIZE) > 0


cdef void begin_linger(loop_t *loop, client_t *client) noexcept nogil:
    """All is said: close our side, and let the client read it before the socket goes."""
    leave(loop, client)
    if client.upstream != NULL:
        pool_close(loop, client.upstream)
    flow_clear(loop, &http_of(loop).stores, &client.request)
    flow_clear(loop, &http_of(loop).stores, &client.response)
    endpoint_end(&client.io)
    client.state = CLIENT_LINGER
    client.deadline_ms = loop.now_ms + LINGER_MS
    client.total_deadline_ms = 0


cdef int linger(loop_t *loop, client_t *client) noexcept nogil:
    """Read and forget, up to the client's end."""
    cdef ssize_t n
    cdef int _round
    for _round in range(LINGER_READS):
        if not client.io.ready & READABLE:
            return STEP_WAIT if loop_watch(loop, &client.io, EPOLLIN) == FP_OK else STEP_CUT
        n = endpoint_read(&client.io, loop.scratch, BUFFER_SIZE)
        if n == 0 or (n < 0 and n != FP_AGAIN):
            return STEP_CUT
    loop_again(loop, &client.io)
    return STEP_WAIT


# ---- the tunnel ----

cdef void open_tunnel(loop_t *loop, client_t *client) noexcept nogil:
    """After a 101: bytes both ways, beginning with those that came early."""
    cdef http_t *http = http_of(loop)
    cdef pair_t *pair = <pair_t *>slab_get(&http.pairs)
    if pair == NULL:
        client_free(loop, client)
        return
    exchange_count(loop, client)
    access_tunnel(client)
    request_ended(http, client)
    timeout_disarm(&client.timeout)
    memset(pair, 0, sizeof(pair_t))
    pair.client = &client.io
    pair.backend = &client.upstream.io
    pair.on_end = on_tunnel_end
    pair.owner = client
    pair.idle_timeout_ms = client.tunnel_idle_timeout_ms
    pair.backend_slot = client.upstream.slot
    hand_over(loop, &client.request, &pair.inward.waiting, &pair.inward.start, &pair.inward.end)
    hand_over(loop, &client.response, &pair.outward.waiting, &pair.outward.start,
              &pair.outward.end)
    client.state = CLIENT_TUNNEL
    client.pair = pair
    pair_start(loop, pair)


cdef void hand_over(loop_t *loop, flow_t *flow, uint8_t **waiting, uint16_t *start,
                    uint16_t *end) noexcept nogil:
    """Give what was read and not sent on, and its buffer, to the tunnel."""
    if flow.raw_start < flow.raw_end:
        waiting[0] = flow.buffer
        start[0] = flow.raw_start
        end[0] = flow.raw_end
        flow.buffer = NULL
    flow_clear(loop, &http_of(loop).stores, flow)


cdef void on_tunnel_end(loop_t *loop, pair_t *pair) noexcept nogil:
    cdef client_t *client = <client_t *>pair.owner
    client.pair = NULL
    access_moved(client, pair.inward.moved, pair.outward.moved)
    slab_put(&http_of(loop).pairs, pair)
    client_free(loop, client)


# ---- events and timeouts ----

cdef void on_client(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    run(loop, <client_t *>endpoint.owner)


cdef void on_upstream(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    cdef upstream_t *upstream = <upstream_t *>endpoint.owner
    cdef client_t *client = upstream.client
    if client == NULL:
        # An idle one has nothing to say but its end. Bytes of the last response that came while it
        # was read make epoll tell once more that the socket is writable.
        if endpoint.ready & (READABLE | PEER_ENDED | FAILED):
            pool_close(loop, upstream)
    elif client.state != CLIENT_CONNECTING:
        run(loop, client)
    elif endpoint.ready & FAILED:
        if settle(loop, client, dispatch_refused(loop, client)):
            run(loop, client)
    elif endpoint.ready & WRITABLE:
        if settle(loop, client, dispatch_connected(loop, client)):
            run(loop, client)


cdef inline uint64_t due_of(const client_t *client) noexcept nogil:
    """When the connection's patience ends; 0: never."""
    if client.total_deadline_ms == 0:
        return client.deadline_ms
    if client.deadline_ms == 0 or client.total_deadline_ms < client.deadline_ms:
        return client.total_deadline_ms
    return client.deadline_ms


cdef void arm(loop_t *loop, client_t *client) noexcept nogil:
    """Make sure that the timeout fires in time. One that fires early costs less than re-arming with
    every request."""
    cdef uint64_t due = due_of(client)
    if due == 0:
        return
    if timeout_armed(&client.timeout) and client.timeout.due * TICK_MS <= due + TICK_MS:
        return
    loop_arm(loop, &client.timeout, on_timeout,
             <uint32_t>(due - loop.now_ms) if due > loop.now_ms else 0)


cdef void on_timeout(loop_t *loop, timeout_t *timeout) noexcept nogil:
    cdef client_t *client = <client_t *>timeout.owner
    cdef uint64_t due = due_of(client)
    cdef int step = STEP_CUT
    if due == 0 or due > loop.now_ms:
        arm(loop, client)
        return
    if client.state == CLIENT_IDLE:
        step = STEP_CLOSE
    elif client.state == CLIENT_HEAD:
        step = -REFUSE_HEADER_TIMEOUT
    elif client.state == CLIENT_EXCHANGE:
        step = exchange_expired(loop, client)
    elif client.state in (CLIENT_CONNECTING, CLIENT_BACKOFF, CLIENT_WAITING, CLIENT_CHECKING):
        if client.total_deadline_ms and client.total_deadline_ms <= loop.now_ms:
            step = -REFUSE_TIMEOUT
        elif client.state == CLIENT_WAITING:
            step = -REFUSE_QUEUE_TIMEOUT
        elif client.state == CLIENT_CHECKING:
            step = -REFUSE_CHECKS_BUSY
        elif client.state == CLIENT_BACKOFF:
            step = dispatch_resume(loop, client)
        else:
            step = dispatch_refused(loop, client)
    if settle(loop, client, step):
        run(loop, client)


cdef void on_copy(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    """A copy of a request goes to its service, or on."""
    cdef client_t *copy = <client_t *>endpoint.owner
    if copy.state != CLIENT_BACKOFF or settle(loop, copy, dispatch_copy(loop, copy)):
        run(loop, copy)


# ---- a connection's beginning and end ----

cdef int http_accept(loop_t *loop, const listener_t *listener, int fd,
                     const sockaddr_any_t *peer) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef client_t *client = <client_t *>slab_get(&http.clients_memory)
    cdef const gateway_t *gateway = listener.gateway
    cdef sockaddr_any_t local
    cdef socklen_t size = sizeof(local)
    cdef int code
    if client == NULL:
        return -1 - REJECT_CAPACITY
    memset(client, 0, sizeof(client_t))
    client.listener_slot = listener.slot
    client.header_timeout_ms = gateway.header_timeout_ms
    client.keepalive_timeout_ms = gateway.keepalive_timeout_ms
    client.timeout.owner = client
    client.address = client.remote = peer[0]
    code = entry_connection(loop, client, gateway)
    if code != FP_OK:
        slab_put(&http.clients_memory, client)
        return code
    client.flow = flow_hash(loop.hash_key, peer, &listener.address, IPPROTO_TCP)
    client.origin = client_hash(loop.hash_key, peer)
    local = listener.address
    if listener.wildcard:
        getsockname(fd, &local.any, &size)
    peer_init(&client.peer, peer, &local)
    client.next = http.clients
    if client.next != NULL:
        client.next.previous = client
    http.clients = client
    pool_limit(loop)
    endpoint_init(&client.io, on_client, client, fd, READABLE | WRITABLE)
    rest(loop, client)
    run(loop, client)
    return FP_OK


cdef void client_free(loop_t *loop, client_t *client) noexcept nogil:
    """Close what is open and give everything back."""
    cdef http_t *http = http_of(loop)
    leave(loop, client)
    if client.next != NULL:
        client.next.previous = client.previous
    if client.previous != NULL:
        client.previous.next = client.next
    else:
        http.clients = client.next
    timeout_disarm(&client.timeout)
    if client.upstream != NULL:
        pool_close(loop, client.upstream)
    if client.head != NULL:
        slab_put(&http.stores.heads, client.head)
    flow_clear(loop, &http.stores, &client.request)
    flow_clear(loop, &http.stores, &client.response)
    loop_close(loop, &client.io)
    entry_leave(loop, client)
    loop_client_closed(loop, client.listener_slot)
    slab_put(&http.clients_memory, client)


# ---- the protocol ----

cdef int http_init(loop_t *loop) noexcept nogil:
    cdef slab_t memory
    cdef http_t *http
    if slab_init(&memory, 1, sizeof(http_t)) != FP_OK:
        return FP_FULL
    http = <http_t *>slab_get(&memory)      # fresh pages are zero
    http.state_memory = memory
    http.on_upstream = on_upstream
    http.on_copy = on_copy
    loop.states[<int>PROTOCOL_HTTP] = http
    if (request_ids_init(&http.ids) != FP_OK
            or checks_init(&http.checks) != FP_OK
            or slab_init(&http.clients_memory, loop.capacity, sizeof(client_t)) != FP_OK
            or slab_init(&http.upstreams_memory, loop.capacity + COPIES_MAX,
                         sizeof(upstream_t)) != FP_OK
            or slab_init(&http.pairs, loop.capacity, sizeof(pair_t)) != FP_OK
            or slab_init(&http.askers, loop.capacity, sizeof(asker_t)) != FP_OK
            or slab_init(&http.copies, COPIES_MAX, sizeof(client_t)) != FP_OK
            or slab_init(&http.questions, loop.capacity, sizeof(question_t)) != FP_OK
            or slab_init(&http.records, loop.capacity, sizeof(request_record_t)) != FP_OK
            or ring_init(&loop.requests, REQUESTS_SIZE, sizeof(request_record_t)) != FP_OK
            or slab_init(&http.stores.forwards, 2 * loop.capacity + COPIES_MAX,
                         FORWARD_SIZE_MAX) != FP_OK
            or slab_init(&http.stores.heads, 2 * (loop.capacity + COPIES_MAX),
                         sizeof(head_t)) != FP_OK
            or coders_init(&http.stores.coders) != FP_OK):
        return FP_FULL                      # the worker calls http_free
    return FP_OK


cdef void http_pick_up(loop_t *loop) noexcept nogil:
    """New tables: idle sockets to backends that are gone go; when draining idle clients, too."""
    cdef http_t *http = http_of(loop)
    cdef client_t *client = http.clients
    cdef client_t *following
    pool_review(loop, loop.snapshot.draining)
    while client != NULL and loop.snapshot.draining:
        following = client.next
        if client.state == CLIENT_IDLE:
            client_free(loop, client)
        client = following


cdef void http_woken(loop_t *loop) noexcept nogil:
    checks_hear(loop, &http_of(loop).checks)


cdef bint is_cut(const client_t *client, uint8_t kind, uint16_t slot) noexcept nogil:
    """Whether it came by that listener, or is served by that backend now."""
    if kind == CUT_BACKEND:
        return client.upstream != NULL and client.upstream.slot == slot
    return client.listener_slot == slot


cdef void http_cut(loop_t *loop, uint8_t kind, uint16_t slot) noexcept nogil:
    cdef client_t *client = http_of(loop).clients
    cdef client_t *following
    if kind == CUT_BACKEND:
        mirror_cut(loop, slot)
    while client != NULL:
        following = client.next
        if is_cut(client, kind, slot):
            access_ends(client, ENDED_CUT)
            if client.state == CLIENT_TUNNEL:
                pair_stop(loop, client.pair, True, END_CUT)
            else:
                loop_reset(loop, &client.io)
                client_free(loop, client)
        client = following


cdef void http_free(loop_t *loop) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef slab_t memory
    if http == NULL:
        return
    while http.clients != NULL:
        access_ends(http.clients, ENDED_STOPPED)
        if http.clients.state == CLIENT_TUNNEL:
            pair_stop(loop, http.clients.pair, False, END_STOPPED)
        else:
            client_free(loop, http.clients)
    mirror_cut(loop, MAX_BACKENDS)
    timeout_disarm(&http.look)
    pool_review(loop, True)
    fp_assert(http.stores.heads.n_used == 0 and http.stores.forwards.n_used == 0)
    fp_assert(http.pairs.n_used == 0 and http.upstreams_memory.n_used == 0)
    fp_assert(http.clients_memory.n_used == 0 and http.askers.n_used == 0)
    fp_assert(http.records.n_used == 0 and http.checks.memory.n_used == 0)
    fp_assert(http.questions.n_used == 0 and http.copies.n_used == 0)
    checks_free(&http.checks)
    coders_free(&http.stores.coders)
    slab_free(&http.stores.heads)
    slab_free(&http.stores.forwards)
    slab_free(&http.pairs)
    slab_free(&http.askers)
    slab_free(&http.questions)
    slab_free(&http.copies)
    slab_free(&http.records)
    slab_free(&http.upstreams_memory)
    slab_free(&http.clients_memory)
    memory = http.state_memory
    loop.states[<int>PROTOCOL_HTTP] = NULL
    slab_free(&memory)


cdef void http_protocol(protocol_t *protocol) noexcept nogil:
    protocol.init = http_init
    protocol.accept = http_accept
    protocol.pick_up = http_pick_up
    protocol.cut = http_cut
    protocol.woken = http_woken
    protocol.free = http_free
