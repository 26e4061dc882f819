"""A gateway's access log, at the worker."""

from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_OK, listener_t, route_t
from fastpath.atomics cimport exchange
from fastpath.http.http1 cimport (
    FIELD_OTHER, HEAD_REQUEST, METHOD_SIZE_MAX, field_t, head_t, is_named,
)
from fastpath.http.records cimport ENDED_CLIENT, SAID_MAX, request_record_t, said_t
from fastpath.http.state cimport http_of
from fastpath.memory.ring cimport ring_drop, ring_put
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.sys_linux cimport eventfd_write


cdef void say(said_t *said, const uint8_t *text, uint16_t size) noexcept nogil:
    said.size = size
    memcpy(said.text, text, min(size, <uint16_t>SAID_MAX))


cdef uint16_t without_query(const uint8_t *text, uint16_t size) noexcept nogil:
    """How much of a URL comes before its query or fragment."""
    cdef uint16_t i
    for i in range(size):
        if text[i] == c"?" or text[i] == c"#":
            return i
    return size


cdef void say_raw(request_record_t *record, const head_t *head, const uint8_t *data) noexcept nogil:
    """The path as it was sent, for want of a canonical one. A target that is none may hold
    credentials."""
    cdef const uint8_t *target = data + head.target.at
    if head.target.size > 0 and target[0] == c"/":
        say(&record.path, target, without_query(target, head.target.size))


cdef void say_fields(request_record_t *record, const head_t *head,
                     const uint8_t *data) noexcept nogil:
    cdef const field_t *field
    cdef const uint8_t *name
    cdef const uint8_t *value
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        name = data + field.name.at
        value = data + field.value.at
        if field.kind != FIELD_OTHER:
            continue
        if is_named(name, field.name.size, b"user-agent"):
            say(&record.agent, value, field.value.size)
        elif is_named(name, field.name.size, b"referer"):
            say(&record.referer, value, without_query(value, field.value.size))


cdef void access_begin(loop_t *loop, client_t *client, const request_t *request) noexcept nogil:
    cdef const listener_t *listener = loop.snapshot.listener_of_slot[client.listener_slot]
    cdef const options_t *options = NULL
    cdef const head_t *head = client.head
    cdef const uint8_t *data = client.request.buffer
    cdef request_record_t *record
    if listener != NULL and listener.gateway != NULL:
        options = <const options_t *>listener.gateway.options
    if options == NULL or not options.logs:
        return
    record = client.record      # one that has waited is read again, and is called otherwise
    if record == NULL:
        record = <request_record_t *>slab_get(&http_of(loop).records)
    if record == NULL:
        return
    memset(record, 0, <size_t>&(<request_record_t *>NULL).method)
    record.host.size = record.path.size = record.referer.size = record.agent.size = 0
    record.gateway_slot = listener.gateway.slot
    record.begun_us = client.begun_us
    record.is_old = head.minor == 0
    record.how = ENDED_CLIENT
    record.method_size = <uint8_t>min(head.method_name.size, <uint16_t>METHOD_SIZE_MAX)
    memcpy(record.method, data + head.method_name.at, record.method_size)
    if request == NULL:
        record.client = client.remote
        say_raw(record, head, data)
    else:
        record.client = client.address
        record.complete_us = client.started_us
        record.id_size = request.id_size
        memcpy(record.id, request.id, request.id_size)
        say(&record.host, request.host, request.host_size)
        if request.is_asterisk:
            say(&record.path, b"*", 1)
        else:
            say(&record.path, request.path, request.path_size)
        say_fields(record, head, data)
    client.record = record


cdef bint has_method(const client_t *client) noexcept nogil:
    """Whether of the request's head enough has come for a line."""
    return (client.head != NULL and client.head.kind == HEAD_REQUEST
            and client.head.method_name.size > 0 and client.request.buffer != NULL)


cdef void access_refused(loop_t *loop, client_t *client, refusal_t why,
                         uint64_t size) noexcept nogil:
    if client.record == NULL:
        if not has_method(client):
            return
        access_begin(loop, client, NULL)
        if client.record == NULL:
            return
    client.record.how = <uint8_t>why
    client.record.is_refused = True
    client.record.has_response = False
    client.record.bytes_out = size
    client.record.heads_out = 0


cdef bint has_route(const loop_t *loop, const client_t *client) noexcept nogil:
    """Whether the slot is still that route's."""
    cdef const route_t *route = loop.snapshot.route_of_slot[client.route_slot]
    return client.has_route and (route == NULL or route.born == client.route_born)


cdef void access_write(loop_t *loop, client_t *client) noexcept nogil:
    cdef request_record_t *record = client.record
    client.record = NULL
    record.ended_us = loop.now_us
    record.status = client.status
    record.retries = client.n_retries
    record.has_route = has_route(loop, client)
    record.route_slot = client.route_slot
    record.bytes_in -= min(record.bytes_in, record.heads_in)
    record.bytes_out -= min(record.bytes_out, record.heads_out)
    if ring_put(&loop.requests, record) != FP_OK:
        ring_drop(&loop.requests)
    slab_put(&http_of(loop).records, record)
    # As fastpath.proxy.stream does it, and why.
    if exchange(&loop.common.log_wanted, 0):
        eventfd_write(loop.common.log_wake, 1)
