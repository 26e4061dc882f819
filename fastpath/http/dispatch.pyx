"""A request's way to a backend: understood, routed, given a socket."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport (
    FP_FULL, FP_OK, FP_PORTS, MAX_BACKENDS, MAX_TRIES, RETRY_CONNECT, backend_t, gateway_t,
    listener_t, route_t, service_t, target_t,
)
from fastpath.http.access cimport (
    access_attached, access_begin, access_called, access_connecting, access_head_in,
)
from fastpath.http.flow cimport flow_clear, flow_decode, flow_t
from fastpath.http.forward cimport forward_request
from fastpath.http.entry cimport entry_head, entry_request
from fastpath.http.filters.auth cimport FILTER_WAITS, auth_done, auth_heard
from fastpath.http.filters.chain cimport filters_request, filters_target
from fastpath.http.framing cimport BODY_CHUNKED, BODY_NONE, body_refusal
from fastpath.http.hash_on cimport hash_on
from fastpath.http.http1 cimport (
    HEAD_REQUEST, REFUSE_BUSY, REFUSE_CONNECT, REFUSE_NO_BACKEND, REFUSE_NO_ROUTE,
    REFUSE_QUEUE_FULL, REFUSE_UNAVAILABLE, REFUSE_UPSTREAM, head_init, head_scan, head_t,
)
from fastpath.http.mirror cimport mirror_copy
from fastpath.http.options cimport options_t
from fastpath.http.path cimport PATH_KEEPS_SLASHES, PATH_REFUSES_SLASH
from fastpath.http.pool cimport pool_close, pool_connect, pool_park, pool_take
from fastpath.http.queue cimport queue_called, queue_enter, queue_leave
from fastpath.http.predicates cimport asked_t
from fastpath.http.request cimport request_asked, request_read, request_t
from fastpath.http.request_id cimport request_identify
from fastpath.http.retry cimport is_repeatable, retry_begin, retry_may
from fastpath.http.routes cimport host_is_served, route_find
from fastpath.http.state cimport (
    CLIENT_CONNECTING, CLIENT_EXCHANGE, CLIENT_HEAD, HEARS_COPY, RESPONSE_HEAD, STEP_CLOSE, STEP_GO,
    STEP_WAIT, client_t, deadline_of, http_of, http_t,
)
from fastpath.http.sticky cimport sticky_find, sticky_read
from fastpath.http.subrequest cimport question_ask, question_drop, question_granted
from fastpath.http.targets cimport target_next
from fastpath.hashing.bits cimport draw64
from fastpath.loop cimport backend_connected, backend_refused, endpoint_write, loop_t
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.proxy.affinity cimport affinity_choose, affinity_remember
from fastpath.proxy.outlier cimport outlier_failed
from fastpath.proxy.proxy_header cimport proxy_header_write
from fastpath.sys_linux cimport getsockname, sockaddr_any_t, socklen_t

# ---- the request comes in ----

cdef int dispatch_request(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef request_t *request = &http.request
    cdef flow_t *flow = &client.request
    cdef head_t *head = client.head
    cdef const listener_t *listener = loop.snapshot.listener_of_slot[client.listener_slot]
    cdef const options_t *options = options_of(listener)
    cdef int code = entry_head(options, head, flow.buffer)
    if code == 0:
        code = request_read(request, head, flow.buffer, path_rules(listener))
    client.method = head.method
    client.is_old = head.minor == 0
    if client.check == NULL:            # else it has waited, and is read once more
        client.started_us = loop.now_us
    flow.raw_start = head.pos
    if code < 0:
        return code
    client.wants_keep = (request.options.is_keep_alive if client.is_old
                         else not request.options.is_close)
    client.has_body = request.body.kind != BODY_NONE
    code = entry_request(loop, client, request, options)
    request_identify(request, head, flow.buffer, &http.ids)
    if options != NULL and options.logs:
        access_begin(loop, client, request)
    if code == 0:
        code = find_route(loop, client, listener, request)
    if code == FILTER_WAITS:
        return STEP_WAIT
    if client.check != NULL:
        auth_done(loop, client)
    if code < 0:
        return code
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        return -REFUSE_BUSY
    flow.head_start = 0
    flow.head_end = <uint16_t>forward_request(flow.head, request, head, flow.buffer, &client.peer,
                                              &client.address)
    access_head_in(client, flow.head_end)
    flow.keeps_head = True
    slab_put(&http.stores.heads, head)
    client.head = NULL
    flow.body = request.body
    flow.as_chunks = request.body.kind == BODY_CHUNKED
    flow.is_whole = not client.has_body
    client.is_websocket = request.is_websocket
    client.n_retries = 0
    client.is_active = True
    http.n_active += 1
    if client.question != NULL:
        question_ask(loop, client)
    return begin(loop, client)


cdef int begin(loop_t *loop, client_t *client) noexcept nogil:
    """`client.request` is to go to a backend of the service."""
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.request
    cdef int code
    if client.has_filters and not client.hears:
        mirror_copy(loop, client)
    # What has come of the body is checked before a backend hears anything.
    if client.has_body and flow.raw_start < flow.raw_end and flow_decode(&http.stores, flow) < 0:
        return -<int>body_refusal(&flow.body)
    http.n_requests += 1
    client.hash = hash_of(loop, client, loop.snapshot.service_of_slot[client.service_slot])
    client.tries.n = 0
    client.n_interim = 0
    client.is_replaced = client.was_sent = False
    client.keeps_request = is_repeatable(client)
    code = queue_enter(loop, client, loop.snapshot.service_of_slot[client.service_slot])
    return connect_next(loop, client) if code == STEP_GO else code


cdef uint64_t hash_of(loop_t *loop, const client_t *client,
                      const service_t *service) noexcept nogil:
    """By what the route says, else by the service's affinity, else drawn for each request."""
    if client.route_hash != 0:
        return client.route_hash
    return client.origin if service.affinity else draw64(client.flow, http_of(loop).n_requests)


cdef uint8_t path_rules(const listener_t *listener) noexcept nogil:
    """How the gateway wants paths."""
    cdef uint8_t rules = 0
    if listener != NULL and listener.gateway != NULL:
        if listener.gateway.keeps_slashes:
            rules |= PATH_KEEPS_SLASHES
        if listener.gateway.refuses_slash:
            rules |= PATH_REFUSES_SLASH
    return rules


cdef const options_t *options_of(const listener_t *listener) noexcept nogil:
    """Of the gateway; NULL: the defaults."""
    if listener == NULL or listener.gateway == NULL:
        return NULL
    return <const options_t *>listener.gateway.options


cdef int find_route(loop_t *loop, client_t *client, const listener_t *listener,
                    request_t *request) noexcept nogil:
    """Find the route by the tables of now, and note what of it the exchange needs; its filters may
    change the request."""
    cdef const gateway_t *gateway
    cdef const route_t *route = NULL
    cdef asked_t asked
    cdef int code
    cdef int _pass
    if listener == NULL or listener.gateway == NULL:
        client.wants_keep = False       # the listener is gone, this connection is the last of it
        return -REFUSE_UNAVAILABLE
    gateway = listener.gateway
    client.header_timeout_ms = gateway.header_timeout_ms
    client.body_idle_timeout_ms = gateway.body_idle_timeout_ms
    client.keepalive_timeout_ms = gateway.keepalive_timeout_ms
    client.tunnel_idle_timeout_ms = gateway.tunnel_idle_timeout_ms
    # What a route without a backend rewrites is for another route; no further, lest it never ends.
    for _pass in range(2):
        request_asked(&asked, request, client.head, client.request.buffer)
        route = NULL
        if _pass > 0 or host_is_served(listener, &asked):
            route = route_find(gateway, &asked)
        if route == NULL:
            return -REFUSE_NO_ROUTE
        code = take_route(loop, client, request, route)
        if code != 0:
            return code
        if route.n_targets > 0 or not request.is_rewritten:
            break
    code = take_target(loop, client, route)
    if code == 0 and client.has_filters:
        filters_target(client, request, route)
    return code


cdef int take_route(loop_t *loop, client_t *client, request_t *request,
                    const route_t *route) noexcept nogil:
    client.has_route = True
    client.route_slot = route.slot
    client.route_born = route.born
    client.backend_timeout_ms = route.backend_timeout_ms
    client.total_deadline_ms = deadline_of(loop, route.request_timeout_ms)
    client.has_filters = route.filters != NULL
    if client.has_filters:
        return filters_request(loop, client, request, route)
    return 0


cdef int take_target(loop_t *loop, client_t *client, const route_t *route) noexcept nogil:
    cdef const target_t *target
    cdef const backend_t *known
    client.route_hash = client.token = 0
    if route.hash_name.size > 0:
        client.route_hash = hash_on(loop, route, client.head, client.request.buffer,
                                    client.origin)
    client.is_sticky = route.cookie.size > 0
    client.wanted_slot = MAX_BACKENDS
    if client.is_sticky:
        client.token = sticky_read(&route.cookie, client.head, client.request.buffer)
        known = sticky_find(loop, route, client.token)
        if known != NULL:
            client.wanted_slot = known.slot
            client.service_slot = known.service_slot
            return 0
    target = target_next(loop, route)
    if target == NULL or target.service == NULL:
        return -REFUSE_NO_BACKEND
    client.service_slot = target.service.slot
    return 0


# ---- a backend's socket ----

cdef void attach(loop_t *loop, client_t *client, bint is_pooled) noexcept nogil:
    """The upstream is ready to take the request."""
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    cdef const backend_t *backend = loop.snapshot.backend_of_slot[client.upstream.slot]
    if service != NULL:
        affinity_remember(loop, service, &client.address, client.upstream.slot)
    client.sets_cookie = client.is_sticky and backend != NULL and backend.token != client.token
    access_attached(loop, client, client.upstream.slot, is_pooled)
    client.state = CLIENT_EXCHANGE
    client.response_state = RESPONSE_HEAD
    client.is_pooled = is_pooled
    client.was_sent = client.is_request_done = client.is_deaf = False
    client.cut_by_reset = False
    client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)


cdef const backend_t *choose(loop_t *loop, const service_t *service,
                             client_t *client) noexcept nogil:
    """The backend that the cookie names, to begin with; then by the service's policy."""
    cdef uint16_t slot = client.wanted_slot
    cdef const backend_t *backend = NULL
    client.wanted_slot = MAX_BACKENDS
    if slot != MAX_BACKENDS:
        backend = loop.snapshot.backend_of_slot[slot]
    # It may have been in a queue meanwhile.
    if backend == NULL or not backend.usable or backend.service_slot != service.slot:
        return affinity_choose(loop, service, &client.address, client.hash, &client.tries)
    client.tries.slots[0] = slot
    client.tries.n = 1
    return backend


cdef int connect_next(loop_t *loop, client_t *client) noexcept nogil:
    """Take or open a socket to the next choice."""
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    cdef const backend_t *backend
    cdef bint lacks_ports = False
    cdef int result
    while service != NULL:
        backend = choose(loop, service, client)
        if backend == NULL:
            break
        if (service.proxy_header == 0
                and pool_take(loop, backend, client, not is_repeatable(client)) != NULL):
            attach(loop, client, True)
            return STEP_GO
        result = connect_to(loop, client, service, backend)
        if result == FP_OK:
            return STEP_WAIT
        if result == FP_FULL:
            return -REFUSE_BUSY
        if result == FP_PORTS:
            lacks_ports = True          # another backend may have some
            continue
        backend_refused(loop, backend.slot)
        outlier_failed(loop, backend.slot)
    if lacks_ports:
        return -REFUSE_BUSY
    if client.tries.n == 0:
        return -REFUSE_UNAVAILABLE
    if retry_may(loop, client, RETRY_CONNECT, 0):
        retry_begin(loop, client)
        return STEP_WAIT
    return -REFUSE_CONNECT


cdef int connect_to(loop_t *loop, client_t *client, const service_t *service,
                    const backend_t *backend) noexcept nogil:
    cdef int result = pool_connect(loop, service, backend, client)
    access_connecting(loop, client)
    if result == FP_OK:
        client.state = CLIENT_CONNECTING
        client.deadline_ms = deadline_of(loop, service.connect_timeout_ms)
    return result


cdef bint tell(loop_t *loop, client_t *client) noexcept nogil:
    """Begin with a PROXY header, if the service has one. The socket is new, so it takes it all."""
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    cdef sockaddr_any_t local
    cdef socklen_t size = sizeof(local)
    cdef size_t header_size
    if service == NULL or service.proxy_header == 0:
        return True
    client.upstream.is_told = True
    memset(&local, 0, sizeof(local))
    if getsockname(client.io.fd, &local.any, &size) < 0:
        return False
    header_size = proxy_header_write(loop.scratch, service.proxy_header, &client.address, &local)
    return endpoint_write(
        &client.upstream.io, loop.scratch, header_size, True
    ) == <ssize_t>header_size


cdef int dispatch_connected(loop_t *loop, client_t *client) noexcept nogil:
    backend_connected(loop, client.upstream.slot)
    if not tell(loop, client):
        return dispatch_refused(loop, client)
    attach(loop, client, False)
    return STEP_GO


cdef int dispatch_refused(loop_t *loop, client_t *client) noexcept nogil:
    backend_refused(loop, client.upstream.slot)
    outlier_failed(loop, client.upstream.slot)
    pool_close(loop, client.upstream)
    return connect_next(loop, client)


cdef int dispatch_called(loop_t *loop, client_t *client) noexcept nogil:
    cdef int step = queue_called(loop, client)
    if step != STEP_GO:
        return step
    access_called(loop, client)
    return connect_next(loop, client)


cdef int dispatch_checked(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *flow = &client.request
    if not auth_heard(client):
        return STEP_WAIT
    # What became of the head is undone: it lies in the buffer as it came.
    client.state = CLIENT_HEAD
    client.has_route = False
    head_init(client.head, HEAD_REQUEST)
    head_scan(client.head, flow.buffer, flow.raw_end)
    return dispatch_request(loop, client)


cdef int dispatch_resume(loop_t *loop, client_t *client) noexcept nogil:
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    if service != NULL and client.tries.n >= min(service.n_usable, <uint16_t>MAX_TRIES):
        client.tries.n = 0              # every one had its turn
    return connect_next(loop, client)


cdef int dispatch_heard(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *answer = &client.response
    cdef bint is_there
    if client.keeps_upstream and client.is_request_done:
        pool_park(loop, client.upstream)
    else:
        pool_close(loop, client.upstream)
    queue_leave(loop, client)
    if client.hears == HEARS_COPY:
        client.status = 200             # whatever it is: there was one
        return STEP_CLOSE
    flow_clear(loop, &http_of(loop).stores, answer)
    is_there = question_granted(loop, client)
    question_drop(loop, client)
    return begin(loop, client) if is_there else -REFUSE_UNAVAILABLE


cdef int dispatch_copy(loop_t *loop, client_t *copy) noexcept nogil:
    cdef const service_t *service = loop.snapshot.service_of_slot[copy.service_slot]
    cdef int code
    # There is nothing that a PROXY header could tell of a copy.
    if service == NULL or service.born != copy.service_born or service.proxy_header:
        return -REFUSE_UNAVAILABLE
    copy.hash = hash_of(loop, copy, service)
    copy.keeps_request = is_repeatable(copy)
    code = queue_enter(loop, copy, service)
    if code == STEP_WAIT:
        return -REFUSE_QUEUE_FULL       # it does not wait for a place
    return connect_next(loop, copy) if code == STEP_GO else code


cdef bint may_replace(const client_t *client) noexcept nogil:
    """Whether the request can go to another socket: the pooled one had died, unheard by us."""
    if not client.is_pooled or client.is_replaced or client.n_interim > 0:
        return False
    if not client.was_sent:
        return True
    return is_repeatable(client)


cdef int dispatch_again(loop_t *loop, client_t *client) noexcept nogil:
    cdef const backend_t *backend
    cdef const service_t *service
    if not may_replace(client):
        return -REFUSE_UPSTREAM
    backend = loop.snapshot.backend_of_slot[client.upstream.slot]
    service = loop.snapshot.service_of_slot[client.service_slot]
    pool_close(loop, client.upstream)
    client.is_replaced = True
    client.request.head_start = 0
    if (backend != NULL and backend.usable and service != NULL
            and connect_to(loop, client, service, backend) == FP_OK):
        return STEP_WAIT
    return connect_next(loop, client)
