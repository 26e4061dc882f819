"""One request's life: routed, sent to a backend, answered."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport (
    FP_AGAIN, FP_DONE, FP_FULL, FP_OK, backend_t, gateway_t, listener_t, route_t, service_t,
    snapshot_listener,
)
from fastpath.atomics cimport count
from fastpath.http.answers cimport answer_status, answer_write
from fastpath.http.counters cimport count_request
from fastpath.http.flow cimport (
    PUMP_CUT, PUMP_DONE, PUMP_MALFORMED, PUMP_STUCK, PUMP_WAIT, flow_clear, flow_decode,
    flow_flush, flow_pump, flow_rewind, flow_room, flow_t, flow_trim, flow_waits, pump_t,
)
from fastpath.http.forward cimport (
    ENDING_CLOSE, ENDING_KEEP, ENDING_KEEP_10, ENDING_UPGRADE, ending_t, forward_request,
    forward_response,
)
from fastpath.http.framing cimport (
    BODY_CHUNKED, BODY_NONE, BODY_UNTIL_CLOSE, connection_options, is_only, options_t,
    response_framing,
)
from fastpath.http.http1 cimport (
    FIELD_UPGRADE, HEAD_DONE, HEAD_RESPONSE, METHOD_DELETE, METHOD_GET, METHOD_HEAD,
    METHOD_OPTIONS, METHOD_PUT, REFUSE_BODY_TIMEOUT, REFUSE_BUSY, REFUSE_CHUNK, REFUSE_CONNECT,
    REFUSE_NO_BACKEND, REFUSE_NO_ROUTE, REFUSE_TIMEOUT, REFUSE_UNAVAILABLE, REFUSE_UPSTREAM,
    head_init, head_scan, head_t,
)
from fastpath.http.pool cimport pool_close, pool_connect, pool_park, pool_take
from fastpath.http.request cimport request_read, request_t
from fastpath.http.routes cimport route_find
from fastpath.http.state cimport (
    CLIENT_ANSWER, CLIENT_CONNECTING, CLIENT_EXCHANGE, RESPONSE_BODY, RESPONSE_HEAD,
    RESPONSE_INTERIM, RESPONSE_UPGRADE, client_t, http_of, http_t, upstream_t,
)
from fastpath.loop cimport (
    FAILED, READABLE, backend_connected, backend_refused, endpoint_read, loop_t,
)
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.proxy.balance cimport balance_choose

cdef enum:
    INTERIM_MAX = 32            # 1xx heads before the final one
    ANSWER_MS = 10000           # for the client to take an answer of ours


cdef inline uint64_t deadline_of(const loop_t *loop, uint32_t delay_ms) noexcept nogil:
    return loop.now_ms + delay_ms if delay_ms else 0


# ---- the request comes in ----

cdef int exchange_start(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef request_t *request = &http.request
    cdef flow_t *flow = &client.request
    cdef head_t *head = client.head
    cdef int code = request_read(request, head, flow.buffer)
    client.method = head.method
    client.is_old = head.minor == 0
    client.started_us = loop.now_us
    flow.raw_start = head.pos
    if code < 0:
        return code
    client.wants_keep = (request.options.is_keep_alive if client.is_old
                         else not request.options.is_close)
    client.has_body = request.body.kind != BODY_NONE
    code = find_route(loop, client, request)
    if code < 0:
        return code
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        return -REFUSE_BUSY
    flow.head_start = 0
    flow.head_end = <uint16_t>forward_request(flow.head, request, head, flow.buffer, &client.peer)
    flow.keeps_head = True
    slab_put(&http.stores.heads, head)
    client.head = NULL
    flow.body = request.body
    flow.as_chunks = request.body.kind == BODY_CHUNKED
    flow.is_whole = not client.has_body
    client.is_websocket = request.is_websocket
    # What has come of the body is checked before a backend hears anything.
    if client.has_body and flow.raw_start < flow.raw_end and flow_decode(&http.stores, flow) < 0:
        return -REFUSE_CHUNK
    http.n_requests += 1
    client.hash = mix(client.flow + http.n_requests * <uint64_t>0x9E3779B97F4A7C15)
    client.tries.n = 0
    client.is_retried = False
    client.n_interim = 0
    return connect_next(loop, client)


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """Spread a counter over all bits (Steele et al., SplitMix64's finaliser)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef int find_route(loop_t *loop, client_t *client, const request_t *request) noexcept nogil:
    """Find the route by the tables of now, and note what of it the exchange needs."""
    cdef listener_t *listener = snapshot_listener(loop.snapshot, client.listener_slot, client.since)
    cdef const gateway_t *gateway
    cdef const route_t *route
    if listener == NULL or listener.gateway == NULL:
        client.wants_keep = False       # the listener is gone, this connection is the last of it
        return -REFUSE_UNAVAILABLE
    gateway = listener.gateway
    client.header_timeout_ms = gateway.header_timeout_ms
    client.body_idle_timeout_ms = gateway.body_idle_timeout_ms
    client.keepalive_timeout_ms = gateway.keepalive_timeout_ms
    client.tunnel_idle_timeout_ms = gateway.tunnel_idle_timeout_ms
    route = route_find(gateway, request.host, request.host_size, request.path, request.path_size)
    if route == NULL:
        return -REFUSE_NO_ROUTE
    client.has_route = True
    client.route_slot = route.slot
    client.backend_timeout_ms = route.backend_timeout_ms
    client.total_deadline_ms = deadline_of(loop, route.request_timeout_ms)
    if route.service == NULL:
        return -REFUSE_NO_BACKEND
    client.service_slot = route.service.slot
    return 0


# ---- a backend's socket ----

cdef void attach(loop_t *loop, client_t *client, bint is_pooled) noexcept nogil:
    """The upstream is ready to take the request."""
    client.state = CLIENT_EXCHANGE
    client.response_state = RESPONSE_HEAD
    client.is_pooled = is_pooled
    client.was_sent = client.is_request_done = client.is_deaf = False
    client.cut_by_reset = False
    client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)


cdef int connect_next(loop_t *loop, client_t *client) noexcept nogil:
    """Take or open a socket to the next choice."""
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    cdef const backend_t *backend
    cdef int result
    while service != NULL:
        backend = balance_choose(service, client.hash, &client.tries)
        if backend == NULL:
            break
        if pool_take(loop, backend, client, not is_repeatable(client)) != NULL:
            attach(loop, client, True)
            return exchange_drive(loop, client)
        result = connect_to(loop, client, backend, service.connect_timeout_ms)
        if result == FP_OK:
            return STEP_WAIT
        if result == FP_FULL:
            return -REFUSE_BUSY
        backend_refused(loop, backend.slot)
    return -REFUSE_UNAVAILABLE if client.tries.n == 0 else -REFUSE_CONNECT


cdef int connect_to(loop_t *loop, client_t *client, const backend_t *backend,
                    uint32_t timeout_ms) noexcept nogil:
    cdef int result = pool_connect(loop, backend, client)
    if result == FP_OK:
        client.state = CLIENT_CONNECTING
        client.deadline_ms = deadline_of(loop, timeout_ms)
    return result


cdef int exchange_connected(loop_t *loop, client_t *client) noexcept nogil:
    backend_connected(loop, client.upstream.slot)
    attach(loop, client, False)
    return exchange_drive(loop, client)


cdef int exchange_refused(loop_t *loop, client_t *client) noexcept nogil:
    backend_refused(loop, client.upstream.slot)
    pool_close(loop, client.upstream)
    return connect_next(loop, client)


cdef bint is_repeatable(const client_t *client) noexcept nogil:
    """Whether the request does no harm when it arrives twice (RFC 9110, 9.2.2), and we still have
    all of it."""
    return not client.has_body and client.method in (
        METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_DELETE
    )


cdef bint may_retry(const client_t *client) noexcept nogil:
    """Whether the request can go to another socket: the pooled one had died, unheard by us."""
    if not client.is_pooled or client.is_retried or client.n_interim > 0:
        return False
    if not client.was_sent:
        return True
    return is_repeatable(client)


cdef int upstream_lost(loop_t *loop, client_t *client) noexcept nogil:
    """The backend closed before its response had a head."""
    cdef const backend_t *backend
    cdef const service_t *service
    if client.response.raw_end > 0 or not may_retry(client):
        return -REFUSE_UPSTREAM
    backend = loop.snapshot.backend_of_slot[client.upstream.slot]
    service = loop.snapshot.service_of_slot[client.service_slot]
    pool_close(loop, client.upstream)
    client.is_retried = True
    client.request.head_start = 0
    if (backend != NULL and backend.usable and service != NULL
            and connect_to(loop, client, backend, service.connect_timeout_ms) == FP_OK):
        return STEP_WAIT
    return connect_next(loop, client)


# ---- both ways ----

cdef int exchange_drive(loop_t *loop, client_t *client) noexcept nogil:
    cdef int step
    if client.io.ready & FAILED:
        return STEP_CUT
    if not client.is_request_done and not client.is_deaf:
        step = send_request(loop, client)
        if step != STEP_WAIT:
            return step
    step = STEP_AGAIN
    while step == STEP_AGAIN:
        if client.response_state == RESPONSE_BODY:
            step = pass_body(loop, client)
        elif client.response_state == RESPONSE_HEAD:
            step = read_response(loop, client)
        else:
            step = pass_interim(loop, client)
    return step


cdef int send_request(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *flow = &client.request
    cdef upstream_t *upstream = client.upstream
    cdef pump_t outcome = flow_pump(loop, &http_of(loop).stores, flow, &client.io, &upstream.io)
    if flow.moved:
        client.was_sent = True
        count(&loop.counters.backends[upstream.slot].bytes_in, flow.moved)
        flow.moved = 0
        if client.response_state == RESPONSE_HEAD:
            client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if outcome == PUMP_DONE:
        client.is_request_done = True
        flow_trim(loop, &http_of(loop).stores, flow)
        if client.response_state == RESPONSE_HEAD:
            client.deadline_ms = deadline_of(loop, client.backend_timeout_ms)
    elif outcome == PUMP_MALFORMED:
        return -REFUSE_CHUNK if is_unanswered(client) else STEP_CUT
    elif outcome == PUMP_CUT:
        return STEP_CUT
    elif outcome == PUMP_STUCK:
        # It may have answered before it stopped listening.
        client.is_deaf = True
        upstream.io.ready |= READABLE
    return STEP_WAIT


cdef bint is_unanswered(const client_t *client) noexcept nogil:
    """Whether an answer of our own would be the first thing the client reads."""
    return client.response_state == RESPONSE_HEAD and not flow_waits(&client.response)


cdef int read_response(loop_t *loop, client_t *client) noexcept nogil:
    """Read until a head is complete; it lies at the front of the buffer."""
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.response
    cdef upstream_t *upstream = client.upstream
    cdef ssize_t n
    cdef int code
    while True:
        if flow.raw_end > 0:
            code = head_scan(client.head, flow.buffer, flow.raw_end)
            if code < 0:
                return -REFUSE_UPSTREAM
            if code == HEAD_DONE:
                return respond(loop, client)
        if not upstream.io.ready & READABLE:
            return STEP_WAIT
        n = flow_room(loop, flow)
        if n == 0:
            return -REFUSE_BUSY
        n = endpoint_read(&upstream.io, flow.buffer + flow.raw_end, n)
        if n == FP_AGAIN:
            flow_trim(loop, &http.stores, flow)
            return STEP_WAIT
        if n <= 0:
            return upstream_lost(loop, client)
        if client.head == NULL and not begin_response(loop, client):
            return -REFUSE_BUSY
        flow.raw_end += <uint16_t>n


cdef bint begin_response(loop_t *loop, client_t *client) noexcept nogil:
    """The first bytes of a response's head: from now on there is no second try."""
    cdef http_t *http = http_of(loop)
    client.head = <head_t *>slab_get(&http.stores.heads)
    if client.head == NULL:
        return False
    head_init(client.head, HEAD_RESPONSE)
    client.request.keeps_head = False
    if client.is_request_done:
        flow_trim(loop, &http.stores, &client.request)
    return True


cdef int respond(loop_t *loop, client_t *client) noexcept nogil:
    """A head has come from the backend: send it on."""
    cdef flow_t *flow = &client.response
    cdef head_t *head = client.head
    cdef options_t options
    cdef bint is_open_ended
    if (response_framing(head, flow.buffer, client.method == METHOD_HEAD, &flow.body) < 0
            or connection_options(head, flow.buffer, &options) < 0):
        return -REFUSE_UPSTREAM
    if head.status < 200:
        return respond_interim(loop, client, &options)
    client.status = head.status
    client.keeps_upstream = options.is_keep_alive if head.minor == 0 else not options.is_close
    is_open_ended = flow.body.kind == BODY_CHUNKED or flow.body.kind == BODY_UNTIL_CLOSE
    flow.as_chunks = is_open_ended and not client.is_old
    if is_open_ended and client.is_old:
        client.wants_keep = False
        client.cut_by_reset = True
    if flow.body.kind == BODY_UNTIL_CLOSE:
        client.keeps_upstream = False
    if loop.snapshot.draining or not client.is_request_done:
        client.wants_keep = False
    client.response_state = RESPONSE_BODY
    client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if not client.wants_keep:
        return write_head(loop, client, ENDING_CLOSE)
    return write_head(loop, client, ENDING_KEEP_10 if client.is_old else ENDING_KEEP)


cdef int respond_interim(loop_t *loop, client_t *client, const options_t *options) noexcept nogil:
    """A 1xx: passed on to those who know it (RFC 9110, 15.2); 101 only to who asked for it."""
    cdef head_t *head = client.head
    client.response.as_chunks = False
    if head.status == 101:
        if not client.is_websocket or not options.is_upgrade or not is_websocket(client):
            return -REFUSE_UPSTREAM
        client.status = 101
        client.response_state = RESPONSE_UPGRADE
        return write_head(loop, client, ENDING_UPGRADE)
    client.n_interim += 1
    if client.n_interim > INTERIM_MAX:
        return -REFUSE_UPSTREAM
    client.response_state = RESPONSE_INTERIM
    if not client.is_old:
        return write_head(loop, client, ENDING_KEEP)
    client.response.raw_start += head.pos
    slab_put(&http_of(loop).stores.heads, head)
    client.head = NULL
    return STEP_AGAIN


cdef bint is_websocket(const client_t *client) noexcept nogil:
    """Whether a 101 switches to what was asked for."""
    cdef const head_t *head = client.head
    cdef uint16_t i
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_UPGRADE:
            return is_only(client.response.buffer + head.fields[i].value.at,
                           head.fields[i].value.size, b"websocket")
    return False


cdef int write_head(loop_t *loop, client_t *client, ending_t ending) noexcept nogil:
    """Render the head that was read, and with it what has come of the body."""
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.response
    cdef head_t *head = client.head
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        return STEP_CUT
    flow.head_start = 0
    flow.head_end = <uint16_t>forward_response(flow.head, head, flow.buffer, &flow.body,
                                               flow.as_chunks, ending)
    flow.raw_start += head.pos
    flow.is_whole = flow.body.kind == BODY_NONE
    client.head = NULL
    slab_put(&http.stores.heads, head)
    if not flow.is_whole and flow.raw_start < flow.raw_end and flow_decode(&http.stores, flow) < 0:
        flow.out_end = flow.out_start
        return broken_off(loop, client)
    return STEP_AGAIN


cdef int pass_interim(loop_t *loop, client_t *client) noexcept nogil:
    """Write a 1xx head."""
    cdef flow_t *flow = &client.response
    cdef int code = flow_flush(loop, flow, &client.io)
    if code != FP_DONE:
        return STEP_WAIT if code == FP_AGAIN else STEP_CUT
    if client.response_state == RESPONSE_UPGRADE:
        return STEP_TUNNEL
    client.response_state = RESPONSE_HEAD
    flow_rewind(flow)
    flow_trim(loop, &http_of(loop).stores, flow)
    if flow.raw_end > 0 and not begin_response(loop, client):
        return STEP_CUT
    return STEP_AGAIN


cdef int pass_body(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *flow = &client.response
    cdef upstream_t *upstream = client.upstream
    cdef pump_t outcome = flow_pump(loop, &http_of(loop).stores, flow, &upstream.io, &client.io)
    if flow.moved:
        count(&loop.counters.backends[upstream.slot].bytes_out, flow.moved)
        flow.moved = 0
        client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if outcome == PUMP_DONE:
        return finish(loop, client)
    if outcome == PUMP_WAIT:
        return STEP_WAIT
    if outcome == PUMP_STUCK:
        exchange_count(loop, client)
        return STEP_CUT
    return broken_off(loop, client)


cdef int broken_off(loop_t *loop, client_t *client) noexcept nogil:
    """The backend's body ended before its end; the client must see that."""
    count(&http_of(loop).counters.refused[<int>REFUSE_UPSTREAM], 1)
    exchange_count(loop, client)
    return STEP_CUT


cdef int finish(loop_t *loop, client_t *client) noexcept nogil:
    """The response is written."""
    cdef flow_t *flow = &client.response
    if (client.keeps_upstream and client.is_request_done and flow.raw_start == flow.raw_end):
        pool_park_of(loop, client)
    else:
        pool_close(loop, client.upstream)
    exchange_count(loop, client)
    flow_clear(loop, &http_of(loop).stores, flow)
    if not client.is_request_done:
        return STEP_LINGER
    # Draining may have begun after the head was sent.
    return STEP_NEXT if client.wants_keep and not loop.snapshot.draining else STEP_CLOSE


cdef inline void pool_park_of(loop_t *loop, client_t *client) noexcept nogil:
    cdef upstream_t *upstream = client.upstream
    pool_park(loop, upstream)
    client.upstream = NULL


# ---- by ourselves ----

cdef int exchange_expired(loop_t *loop, client_t *client) noexcept nogil:
    if not is_unanswered(client):
        count(&http_of(loop).counters.refused[<int>REFUSE_TIMEOUT], 1)
        exchange_count(loop, client)
        return STEP_CUT
    if client.is_request_done or client.is_deaf or flow_waits(&client.request):
        return -REFUSE_TIMEOUT
    if client.total_deadline_ms and client.total_deadline_ms <= loop.now_ms:
        return -REFUSE_TIMEOUT
    return -REFUSE_BODY_TIMEOUT


cdef int exchange_answer(loop_t *loop, client_t *client, refusal_t why) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.response
    cdef ending_t ending = ENDING_CLOSE
    count(&http.counters.refused[<int>why], 1)
    if client.upstream != NULL:
        pool_close(loop, client.upstream)
    if client.head != NULL:
        slab_put(&http.stores.heads, client.head)
        client.head = NULL
    if client.has_body or loop.snapshot.draining:
        client.wants_keep = False
    client.request.keeps_head = False
    client.request.head_start = client.request.head_end
    flow_clear(loop, &http.stores, flow)
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        return STEP_CUT
    if client.wants_keep:
        ending = ENDING_KEEP_10 if client.is_old else ENDING_KEEP
    flow.head_start = 0
    flow.head_end = <uint16_t>answer_write(flow.head, why, client.method == METHOD_HEAD, ending)
    client.status = answer_status(why)
    client.state = CLIENT_ANSWER
    client.deadline_ms = loop.now_ms + ANSWER_MS
    client.total_deadline_ms = 0
    exchange_count(loop, client)
    return exchange_answering(loop, client)


cdef int exchange_answering(loop_t *loop, client_t *client) noexcept nogil:
    cdef int code = flow_flush(loop, &client.response, &client.io)
    if code != FP_DONE:
        return STEP_WAIT if code == FP_AGAIN else STEP_CUT
    flow_clear(loop, &http_of(loop).stores, &client.response)
    return STEP_NEXT if client.wants_keep else STEP_LINGER


cdef void exchange_count(loop_t *loop, const client_t *client) noexcept nogil:
    if client.has_route:
        count_request(&http_of(loop).counters, client.route_slot, client.method, client.status,
                      loop.now_us - client.started_us)
