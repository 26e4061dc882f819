"""A question to another service before a request goes to its own."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.abi cimport (
    FP_AGAIN, FP_BAD, FP_DONE, MAX_BACKENDS, service_t,
)
from fastpath.http.access cimport access_asked
from fastpath.http.filters.headers cimport names_equal
from fastpath.http.flow cimport flow_decode, flow_rewind, flow_room, flow_t, flow_trim
from fastpath.http.forward cimport FORWARD_SIZE_MAX
from fastpath.http.framing cimport (
    BODY_CHUNKED, BODY_NONE, BODY_UNTIL_CLOSE, connection_options, options_t, response_framing,
)
from fastpath.http.http1 cimport (
    FIELD_OTHER, FIELD_UNDERSCORE, METHOD_GET, METHOD_HEAD, field_t, head_t,
)
from fastpath.http.state cimport HEARS_CLIENT, HEARS_QUESTION, http_of, http_t, question_t
from fastpath.http.writing cimport put_field
from fastpath.loop cimport READABLE, endpoint_read, loop_watch
from fastpath.memory.slab cimport slab_put
from fastpath.sys_linux cimport EPOLLIN

cdef enum:
    INTERIM_MAX = 32            # 1xx heads before the answer
    HEARD_MAX = 65536           # bytes of an answer's body; a longer one costs the connection


# ---- what the client's fields say ----

cdef void put_aside(client_t *client) noexcept nogil:
    """They are the question's."""
    cdef question_t *question = client.question
    client.hears = HEARS_QUESTION
    question.method = client.method
    question.has_body = client.has_body
    question.is_old = client.is_old
    question.is_sticky = client.is_sticky
    question.is_websocket = client.is_websocket
    question.service_slot = client.service_slot
    question.wanted_slot = client.wanted_slot
    client.method = METHOD_GET
    client.has_body = client.is_sticky = client.is_websocket = False
    client.is_old = True            # interim responses are not for it
    client.service_slot = question.asked_slot
    client.wanted_slot = MAX_BACKENDS


cdef void take_back(client_t *client) noexcept nogil:
    """They are the request's again."""
    cdef question_t *question = client.question
    client.hears = HEARS_CLIENT
    client.method = question.method
    client.has_body = question.has_body
    client.is_old = question.is_old
    client.is_sticky = question.is_sticky
    client.is_websocket = question.is_websocket
    client.service_slot = question.service_slot
    client.wanted_slot = question.wanted_slot


cdef void swap_heads(flow_t *flow, question_t *question) noexcept nogil:
    cdef uint8_t *head = flow.head
    flow.head = question.head
    question.head = head


cdef void question_ask(loop_t *loop, client_t *client) noexcept nogil:
    cdef question_t *question = client.question
    cdef flow_t *flow = &client.request
    cdef const service_t *service = loop.snapshot.service_of_slot[client.service_slot]
    cdef uint16_t size = flow.head_end
    question.service_born = service.born if service != NULL else 0
    question.body = flow.body
    put_aside(client)
    swap_heads(flow, question)
    flow.head_start = 0
    flow.head_end = question.head_size
    question.head_size = size
    flow.body.kind = BODY_NONE
    flow.as_chunks = False
    flow.is_whole = True
    loop_watch(loop, &client.io, EPOLLIN)       # a client that breaks off need not be waited for


cdef bint question_granted(loop_t *loop, client_t *client) noexcept nogil:
    cdef question_t *question = client.question
    cdef flow_t *flow = &client.request
    cdef const service_t *service
    take_back(client)
    swap_heads(flow, question)
    flow.head_start = 0
    flow.head_end = question.granted_size
    flow.keeps_head = True
    flow.body = question.body
    flow.as_chunks = flow.body.kind == BODY_CHUNKED
    flow.is_whole = not client.has_body
    access_asked(client, flow.head_end)
    service = loop.snapshot.service_of_slot[client.service_slot]
    # New tables may have given its place to another service.
    return service != NULL and service.born == question.service_born


cdef void question_refused(loop_t *loop, client_t *client) noexcept nogil:
    cdef question_t *question = client.question
    take_back(client)
    access_asked(client, 0)
    slab_put(&http_of(loop).stores.forwards, question.head)
    question.head = NULL
    client.keeps_request = False
    client.is_deaf = True
    if client.has_body:
        client.is_request_done = False


cdef void question_free(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    if client.hears == HEARS_QUESTION:
        take_back(client)
    if client.question.head != NULL:
        slab_put(&http.stores.forwards, client.question.head)
    slab_put(&http.questions, client.question)
    client.question = NULL


# ---- the answer ----

cdef bint is_copied(const question_t *question, const field_t *field,
                    const uint8_t *data) noexcept nogil:
    cdef uint16_t at = 0
    cdef uint16_t size
    if field.kind != FIELD_OTHER and field.kind != FIELD_UNDERSCORE:
        return False
    while at < question.names_size:
        size = question.names[at]
        if size == field.name.size and names_equal(data + field.name.at, question.names + at + 1,
                                                   size):
            return True
        at += size + 1
    return False


cdef bint copy_fields(question_t *question, const head_t *head, const uint8_t *data) noexcept nogil:
    """Add what the answer says to the request's head; False when there is no room for it."""
    cdef uint8_t *end = question.head + question.head_size - 2      # before the empty line
    cdef uint8_t *last = question.head + FORWARD_SIZE_MAX
    cdef const field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if not is_copied(question, field, data):
            continue
        if last - end < field.name.size + field.value.size + 6:     # ": ", and two line ends
            return False
        end = put_field(end, field, data)
    end[0] = c"\r"
    end[1] = c"\n"
    question.granted_size = <uint16_t>(end + 2 - question.head)
    return True


cdef void drop_head(loop_t *loop, client_t *client) noexcept nogil:
    """The head is read, what comes after it is not."""
    client.response.raw_start = client.head.pos
    slab_put(&http_of(loop).stores.heads, client.head)
    client.head = NULL


cdef verdict_t question_answered(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *flow = &client.response
    cdef head_t *head = client.head
    cdef options_t options
    # A copy may be of a HEAD; a question never is.
    cdef bint is_bodiless = client.method == METHOD_HEAD
    if (response_framing(head, flow.buffer, is_bodiless, &flow.body) < 0
            or connection_options(head, flow.buffer, &options) < 0 or head.status == 101):
        return VERDICT_BAD
    if head.status < 200:
        client.n_interim += 1
        if client.n_interim > INTERIM_MAX:
            return VERDICT_BAD
        drop_head(loop, client)
        flow_rewind(flow)
        flow_trim(loop, &http_of(loop).stores, flow)
        return VERDICT_INTERIM
    if client.hears == HEARS_QUESTION:
        if head.status >= 300:
            return VERDICT_NO
        if not copy_fields(client.question, head, flow.buffer):
            return VERDICT_BAD
    client.keeps_upstream = options.is_keep_alive if head.minor == 0 else not options.is_close
    client.heard = 0
    flow.as_chunks = False
    flow.is_whole = flow.body.kind == BODY_NONE
    drop_head(loop, client)
    return VERDICT_YES


cdef inline bint has_news(const flow_t *flow) noexcept nogil:
    """Whether there are bytes that nobody has looked at."""
    if flow.trailers != NULL:
        return flow.trailers.pos < flow.raw_end - flow.raw_start
    return flow.raw_start < flow.raw_end


cdef int question_hear(loop_t *loop, client_t *client) noexcept nogil:
    cdef flow_t *flow = &client.response
    cdef ssize_t n
    while not flow.is_whole and client.heard < <uint32_t>HEARD_MAX:
        if has_news(flow):
            if flow_decode(&http_of(loop).stores, flow) < 0:
                return FP_BAD
            client.heard += flow.out_end - flow.out_start
            flow.out_start = flow.out_end = 0
            continue
        if not client.upstream.io.ready & READABLE:
            return FP_AGAIN
        if flow.raw_start == flow.raw_end:
            flow.raw_start = flow.raw_end = 0
        n = flow_room(loop, flow)
        if n == 0:
            return FP_BAD
        n = endpoint_read(&client.upstream.io, flow.buffer + flow.raw_end, n)
        if n == FP_AGAIN:
            return FP_AGAIN
        if n == 0 and flow.body.kind == BODY_UNTIL_CLOSE:
            flow.is_whole = True
        elif n <= 0:
            return FP_BAD
        else:
            flow.raw_end += <uint16_t>n
    if not flow.is_whole or flow.body.kind == BODY_UNTIL_CLOSE or flow.raw_start < flow.raw_end:
        client.keeps_upstream = False
    return FP_DONE
