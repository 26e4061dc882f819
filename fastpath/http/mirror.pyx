"""mirror: a copy of a request goes to another service."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport BUFFER_SIZE, MAX_BACKENDS, fp_assert, route_t
from fastpath.atomics cimport count
from fastpath.hashing.bits cimport draw64
from fastpath.http.counters cimport (
    COPY_ANSWERED, COPY_FAILED, COPY_TOO_LONG, COPY_TOO_MANY, COPY_UNSENT, copy_result_t,
)
from fastpath.http.filters.table cimport HAS_MIRROR, filters_t, mirror_t
from fastpath.http.flow cimport flow_clear, flow_decode, flow_room, flow_t
from fastpath.http.framing cimport BODY_LENGTH, BODY_NONE
from fastpath.http.pool cimport pool_close
from fastpath.http.queue cimport queue_leave
from fastpath.http.state cimport CLIENT_BACKOFF, HEARS_COPY, http_of, http_t, route_of
from fastpath.loop cimport endpoint_init, loop_again, loop_close
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.memory.wheel cimport timeout_disarm

cdef enum:
    COPY_MS = 60000             # from its request's end to its own
    DRAW = 0x6d6972726f72       # tells the draw from that of a backend


cdef void tally(loop_t *loop, copy_result_t result) noexcept nogil:
    count(&http_of(loop).counters.copies[<int>result], 1)


cdef const mirror_t *wanted(loop_t *loop, const client_t *client) noexcept nogil:
    """What the route says, if this request is among those that are copied."""
    cdef const route_t *route = route_of(loop, client)
    cdef const filters_t *filters
    if route == NULL or route.filters == NULL or client.is_websocket:
        return NULL
    filters = <const filters_t *>route.filters
    if not filters.kinds & HAS_MIRROR:
        return NULL
    if draw64(client.flow ^ DRAW, http_of(loop).n_requests) >> 32 >= filters.mirror.threshold:
        return NULL
    return &filters.mirror


cdef void mirror_copy(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef const mirror_t *mirror = wanted(loop, client)
    cdef client_t *copy
    if mirror == NULL or client.copy != NULL:
        return
    if mirror.service == NULL:
        tally(loop, COPY_FAILED)
        return
    if client.request.body.kind == BODY_LENGTH and client.request.body.remaining > BUFFER_SIZE:
        tally(loop, COPY_TOO_LONG)
        return
    copy = <client_t *>slab_get(&http.copies)
    if copy == NULL:
        tally(loop, COPY_TOO_MANY)
        return
    memset(copy, 0, sizeof(client_t))
    endpoint_init(&copy.io, http.on_copy, copy, -1, 0)
    copy.hears = HEARS_COPY
    copy.is_old = True                  # interim responses are not for it
    copy.state = CLIENT_BACKOFF         # until it goes
    copy.timeout.owner = copy
    copy.address = client.address
    copy.remote = client.remote
    copy.flow = client.flow
    copy.origin = client.origin
    copy.method = client.method
    copy.has_body = client.has_body
    copy.service_slot = mirror.service.slot
    copy.service_born = mirror.service.born
    copy.wanted_slot = MAX_BACKENDS
    copy.body_idle_timeout_ms = client.body_idle_timeout_ms
    copy.backend_timeout_ms = client.backend_timeout_ms
    if take_head(loop, client, copy):
        client.copy = copy
    else:
        client.request.copy = NULL
        tally(loop, COPY_TOO_MANY)
        leave(loop, copy)


cdef bint take_head(loop_t *loop, client_t *client, client_t *copy) noexcept nogil:
    """The rendered head, and room for the body that is to come."""
    cdef flow_t *flow = &copy.request
    cdef uint16_t size = client.request.head_end
    flow.head = <uint8_t *>slab_get(&http_of(loop).stores.forwards)
    if flow.head == NULL:
        return False
    memcpy(flow.head, client.request.head, size)
    flow.head_end = size
    flow.keeps_head = True
    flow.as_chunks = client.request.as_chunks
    if not client.has_body:
        return True
    client.request.copy = flow
    return flow_room(loop, flow) > 0


cdef void mirror_release(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef client_t *copy = client.copy
    cdef flow_t *flow = &copy.request
    client.copy = NULL
    client.request.copy = NULL
    link(http, copy)
    if flow.overflows:
        tally(loop, COPY_TOO_LONG)
        leave(loop, copy)
        return
    flow.body.kind = BODY_LENGTH if flow.raw_end > 0 else BODY_NONE
    flow.body.remaining = flow.raw_end
    if copy.has_body:
        flow_decode(&http.stores, flow)     # to be framed as the request's
    flow.is_whole = True
    copy.total_deadline_ms = loop.now_ms + COPY_MS
    loop_again(loop, &copy.io)


cdef void link(http_t *http, client_t *copy) noexcept nogil:
    copy.previous = NULL
    copy.next = http.first_copy
    if copy.next != NULL:
        copy.next.previous = copy
    http.first_copy = copy


cdef void leave(loop_t *loop, client_t *copy) noexcept nogil:
    """Give everything back."""
    cdef http_t *http = http_of(loop)
    if copy.next != NULL:
        copy.next.previous = copy.previous
    if copy.previous != NULL:
        copy.previous.next = copy.next
    elif http.first_copy == copy:
        http.first_copy = copy.next
    timeout_disarm(&copy.timeout)
    loop_close(loop, &copy.io)
    queue_leave(loop, copy)
    if copy.upstream != NULL:
        pool_close(loop, copy.upstream)
    if copy.head != NULL:
        slab_put(&http.stores.heads, copy.head)
    flow_clear(loop, &http.stores, &copy.request)
    flow_clear(loop, &http.stores, &copy.response)
    slab_put(&http.copies, copy)


cdef void mirror_end(loop_t *loop, client_t *copy) noexcept nogil:
    fp_assert(copy.hears == HEARS_COPY)
    tally(loop, COPY_ANSWERED if copy.status else COPY_FAILED)
    leave(loop, copy)


cdef void mirror_forget(loop_t *loop, client_t *client) noexcept nogil:
    cdef client_t *copy = client.copy
    client.copy = NULL
    client.request.copy = NULL
    tally(loop, COPY_UNSENT)
    leave(loop, copy)


cdef void mirror_cut(loop_t *loop, uint16_t slot) noexcept nogil:
    cdef client_t *copy = http_of(loop).first_copy
    cdef client_t *following
    while copy != NULL:
        following = copy.next
        if slot == MAX_BACKENDS or (copy.upstream != NULL and copy.upstream.slot == slot):
            mirror_end(loop, copy)
        copy = following
