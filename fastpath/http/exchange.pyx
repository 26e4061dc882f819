"""Request and response, both ways; and answers of our own."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport (
    FP_AGAIN, FP_DONE, RETRY_RESET, RETRY_TIMEOUT, backend_t, route_t, text_t,
)
from fastpath.atomics cimport count
from fastpath.http.access cimport (
    access_answered, access_ends, access_head_out, access_moved, access_refused,
)
from fastpath.http.answers cimport answer_of, answer_t, answer_write, reply_clear
from fastpath.http.coded cimport coded_pump
from fastpath.http.counters cimport count_request
from fastpath.http.dispatch cimport dispatch_again, dispatch_heard
from fastpath.http.filters.chain cimport filters_answer, filters_put, filters_response
from fastpath.http.flow cimport (
    PUMP_CUT, PUMP_DONE, PUMP_MALFORMED, PUMP_STUCK, PUMP_TROUBLE, PUMP_WAIT, flow_clear,
    flow_decode, flow_flush, flow_pump, flow_rewind, flow_room, flow_t, flow_trim, flow_waits,
    pump_t,
)
from fastpath.http.forward cimport (
    ENDING_CLOSE, ENDING_KEEP, ENDING_KEEP_10, ENDING_UPGRADE, ending_t, forward_response,
)
from fastpath.http.framing cimport (
    BODY_CHUNKED, BODY_NONE, BODY_UNTIL_CLOSE, body_refusal, body_t, connection_options, is_only,
    options_t, response_framing,
)
from fastpath.http.http1 cimport (
    FIELD_UPGRADE, HEAD_DONE, HEAD_RESPONSE, METHOD_HEAD, REFUSE_BODY_TIMEOUT, REFUSE_BUSY,
    REFUSE_TIMEOUT, REFUSE_UPSTREAM, head_init, head_scan, head_t, refusal_t,
)
from fastpath.http.mirror cimport mirror_release
from fastpath.http.pool cimport pool_close, pool_park
from fastpath.http.queue cimport queue_leave
from fastpath.http.records cimport ENDED_BACKEND, ENDED_DONE, ENDED_TIMEOUT, ENDED_TROUBLE
from fastpath.http.retry cimport retry_begin, retry_may
from fastpath.http.state cimport (
    CLIENT_ANSWER, CLIENT_EXCHANGE, RESPONSE_BODY, RESPONSE_HEAD, RESPONSE_INTERIM,
    RESPONSE_UPGRADE, RESPONSE_VERDICT, STEP_CLOSE, STEP_CUT, STEP_LINGER, STEP_NEXT, STEP_TUNNEL,
    STEP_WAIT, client_drains, client_t, deadline_of, http_of, http_t, route_of, upstream_t,
)
from fastpath.http.sticky cimport sticky_write
from fastpath.http.subrequest cimport (
    VERDICT_BAD, VERDICT_INTERIM, VERDICT_YES, question_answered, question_drop, question_refused,
    question_hear, verdict_t,
)
from fastpath.loop cimport FAILED, READABLE, endpoint_read, loop_t
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.proxy.outlier cimport outlier_answered, outlier_failed

cdef enum:
    INTERIM_MAX = 32            # 1xx heads before the final one
    ANSWER_MS = 10000           # for the client to take an answer of ours
    STEP_AGAIN = 100            # beside step_t, in here only: go on with the response


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
        elif client.response_state == RESPONSE_VERDICT:
            step = hear_out(loop, client)
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
        access_moved(client, flow.moved, 0)
        flow.moved = 0
        if client.response_state == RESPONSE_HEAD:
            client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if outcome == PUMP_DONE:
        client.is_request_done = True
        if client.copy != NULL:
            mirror_release(loop, client)
        flow_trim(loop, &http_of(loop).stores, flow)
        if client.response_state == RESPONSE_HEAD:
            client.deadline_ms = deadline_of(loop, client.backend_timeout_ms)
    elif outcome == PUMP_MALFORMED:
        return -<int>body_refusal(&flow.body) if is_unanswered(client) else STEP_CUT
    elif outcome == PUMP_CUT:
        return STEP_CUT
    elif outcome == PUMP_STUCK:
        # It may have answered before it stopped listening.
        client.is_deaf = True
        upstream.io.ready |= READABLE
    return STEP_WAIT


cdef bint is_unanswered(const client_t *client) noexcept nogil:
    """Whether an answer of our own would be the first thing the client reads."""
    return (client.response_state in (RESPONSE_HEAD, RESPONSE_VERDICT)
            and not flow_waits(&client.response))


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
                return failed(loop, client, REFUSE_UPSTREAM)
            if code == HEAD_DONE:
                if client.hears:
                    return hear(loop, client)
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
            return failed(loop, client, REFUSE_UPSTREAM) if flow.raw_end > 0 else lost(loop, client)
        if client.head == NULL and not begin_response(loop, client):
            return -REFUSE_BUSY
        flow.raw_end += <uint16_t>n


cdef int lost(loop_t *loop, client_t *client) noexcept nogil:
    """The connection ended or broke without a response."""
    cdef int step = dispatch_again(loop, client)
    return failed(loop, client, REFUSE_UPSTREAM) if step == -REFUSE_UPSTREAM else step


cdef int failed(loop_t *loop, client_t *client, refusal_t why) noexcept nogil:
    """The try has come to nothing: another one, or that answer."""
    if not retry_may(loop, client, RETRY_TIMEOUT if why == REFUSE_TIMEOUT else RETRY_RESET, 0):
        return -why
    if is_backends_fault(client, why):
        outlier_failed(loop, client.upstream.slot)
    retry_begin(loop, client)
    return STEP_WAIT


cdef bint begin_response(loop_t *loop, client_t *client) noexcept nogil:
    """The first bytes of a response's head: a request that cannot be repeated has done its part."""
    cdef http_t *http = http_of(loop)
    client.head = <head_t *>slab_get(&http.stores.heads)
    if client.head == NULL:
        return False
    head_init(client.head, HEAD_RESPONSE)
    if not client.keeps_request:
        let_go(loop, client)
    return True


cdef void let_go(loop_t *loop, client_t *client) noexcept nogil:
    """The request will not be sent again."""
    client.keeps_request = client.request.keeps_head = False
    if client.is_request_done:
        flow_trim(loop, &http_of(loop).stores, &client.request)


cdef int respond(loop_t *loop, client_t *client) noexcept nogil:
    """A head has come from the backend: send it on."""
    cdef flow_t *flow = &client.response
    cdef head_t *head = client.head
    cdef options_t options
    if (response_framing(head, flow.buffer, client.method == METHOD_HEAD, &flow.body) < 0
            or connection_options(head, flow.buffer, &options) < 0
            or not begin_body(loop, client)):
        return failed(loop, client, REFUSE_UPSTREAM)
    if head.status >= 400 and retry_may(loop, client, 0, head.status):
        outlier_answered(loop, client.upstream.slot)
        retry_begin(loop, client)
        return STEP_WAIT
    let_go(loop, client)
    if head.status < 200:
        return respond_interim(loop, client, &options)
    outlier_answered(loop, client.upstream.slot)
    access_answered(loop, client)
    client.status = head.status
    client.keeps_upstream = options.is_keep_alive if head.minor == 0 else not options.is_close
    if is_open_ended(&flow.body) and client.is_old:
        client.wants_keep = False
        client.cut_by_reset = True
    if flow.body.kind == BODY_UNTIL_CLOSE:
        client.keeps_upstream = False
    if client_drains(loop, client) or not client.is_request_done:
        client.wants_keep = False
    client.response_state = RESPONSE_BODY
    client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if not client.wants_keep:
        return write_head(loop, client, ENDING_CLOSE)
    return write_head(loop, client, ENDING_KEEP_10 if client.is_old else ENDING_KEEP)


cdef inline bint is_open_ended(const body_t *body) noexcept nogil:
    return body.kind == BODY_CHUNKED or body.kind == BODY_UNTIL_CLOSE


cdef bint begin_body(loop_t *loop, client_t *client) noexcept nogil:
    """Decode what has come of the body with the head, before the client hears of either; False when
    it is malformed."""
    cdef flow_t *flow = &client.response
    flow.raw_start = client.head.pos
    flow.as_chunks = is_open_ended(&flow.body) and not client.is_old
    flow.is_whole = flow.body.kind == BODY_NONE
    if flow.is_whole or flow.raw_start == flow.raw_end:
        return True
    return flow_decode(&http_of(loop).stores, flow) == 0


cdef int respond_interim(loop_t *loop, client_t *client, const options_t *options) noexcept nogil:
    """A 1xx: passed on to those who know it (RFC 9110, 15.2); 101 only to who asked for it."""
    cdef head_t *head = client.head
    if head.status == 101:
        if not client.is_websocket or not options.is_upgrade or not is_websocket(client):
            return -REFUSE_UPSTREAM
        outlier_answered(loop, client.upstream.slot)
        access_answered(loop, client)
        client.status = 101
        client.response_state = RESPONSE_UPGRADE
        return write_head(loop, client, ENDING_UPGRADE)
    client.n_interim += 1
    if client.n_interim > INTERIM_MAX:
        return -REFUSE_UPSTREAM
    client.response_state = RESPONSE_INTERIM
    if not client.is_old:
        return write_head(loop, client, ENDING_KEEP)
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
    """Render the head that was read."""
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.response
    cdef head_t *head = client.head
    cdef const text_t *lines = NULL
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        return STEP_CUT
    if client.has_filters and head.status >= 200:
        lines = filters_response(loop, client)
    flow.head_start = 0
    flow.head_end = <uint16_t>forward_response(flow.head, head, flow.buffer, lines, &flow.body,
                                               flow.as_chunks or flow.coder != NULL, ending)
    if client.has_filters or client.sets_cookie:
        put_fields(loop, client)
    access_head_out(client, flow.head_end)
    client.head = NULL
    slab_put(&http.stores.heads, head)
    return STEP_AGAIN


cdef void put_fields(loop_t *loop, client_t *client) noexcept nogil:
    """Add to the head that is rendered what filters say to this request, and the cookie that names
    the backend."""
    cdef flow_t *flow = &client.response
    cdef uint8_t *end = flow.head + flow.head_end - 2       # before the empty line
    if client.has_filters and client.head.status >= 200:
        end = filters_put(end, loop, client)
    if client.sets_cookie and client.response_state != RESPONSE_INTERIM:
        end = put_cookie(end, loop, client)
    end[0] = c"\r"
    end[1] = c"\n"
    flow.head_end = <uint16_t>(end + 2 - flow.head)


cdef uint8_t *put_cookie(uint8_t *out, const loop_t *loop, const client_t *client) noexcept nogil:
    cdef const route_t *route = route_of(loop, client)
    cdef const backend_t *backend = loop.snapshot.backend_of_slot[client.upstream.slot]
    if route == NULL or route.cookie.size == 0 or backend == NULL:
        return out
    return out + sticky_write(out, route, backend.token)


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
    cdef pump_t outcome
    if flow.coder == NULL:
        outcome = flow_pump(loop, &http_of(loop).stores, flow, &upstream.io, &client.io)
    else:
        outcome = coded_pump(loop, &http_of(loop).stores, flow, &upstream.io, &client.io)
    if flow.moved:
        count(&loop.counters.backends[upstream.slot].bytes_out, flow.moved)
        access_moved(client, 0, flow.moved)
        flow.moved = 0
        client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
    if outcome == PUMP_DONE:
        return finish(loop, client)
    if outcome == PUMP_WAIT:
        return STEP_WAIT
    if outcome == PUMP_STUCK or outcome == PUMP_TROUBLE:
        if outcome == PUMP_TROUBLE:
            access_ends(client, ENDED_TROUBLE)
        exchange_count(loop, client)
        return STEP_CUT
    return broken_off(loop, client)


cdef int broken_off(loop_t *loop, client_t *client) noexcept nogil:
    """The backend's body ended before its end; the client must see that."""
    count(&http_of(loop).counters.refused[<int>REFUSE_UPSTREAM], 1)
    access_ends(client, ENDED_BACKEND)
    exchange_count(loop, client)
    return STEP_CUT


cdef int finish(loop_t *loop, client_t *client) noexcept nogil:
    """The response is written."""
    cdef flow_t *flow = &client.response
    if (client.keeps_upstream and client.is_request_done and flow.raw_start == flow.raw_end):
        pool_park(loop, client.upstream)
    else:
        pool_close(loop, client.upstream)
    access_ends(client, ENDED_DONE)
    exchange_count(loop, client)
    flow_clear(loop, &http_of(loop).stores, flow)
    if not client.is_request_done:
        return STEP_LINGER
    if client.wants_keep:
        # The engine's draining may have begun after the head was sent. A listener's lets the
        # connection live, for its next request may be on its way: the response to that ends it.
        return STEP_CLOSE if loop.snapshot.draining else STEP_NEXT
    # A client that did not ask for the end may have sent more, which must not become a reset that
    # takes the response away (RFC 9112, 9.6).
    return STEP_LINGER if client_drains(loop, client) else STEP_CLOSE


# ---- an answer to a question of ours ----

cdef int hear(loop_t *loop, client_t *client) noexcept nogil:
    """Its head has come."""
    cdef verdict_t verdict = question_answered(loop, client)
    cdef int step
    if verdict == VERDICT_INTERIM:
        if client.response.raw_end > 0 and not begin_response(loop, client):
            return -REFUSE_BUSY
        return STEP_AGAIN
    if verdict == VERDICT_BAD:
        return failed(loop, client, REFUSE_UPSTREAM)
    if verdict == VERDICT_YES:
        client.response_state = RESPONSE_VERDICT
        client.deadline_ms = deadline_of(loop, client.body_idle_timeout_ms)
        return STEP_AGAIN
    if client.head.status >= 400 and retry_may(loop, client, 0, client.head.status):
        outlier_answered(loop, client.upstream.slot)
        retry_begin(loop, client)
        return STEP_WAIT
    question_refused(loop, client)
    step = respond(loop, client)
    if client.method == METHOD_HEAD:
        client.keeps_upstream = False       # the answer to a GET has a body, which is not read
    return step


cdef int hear_out(loop_t *loop, client_t *client) noexcept nogil:
    """It lets the request go on: read it up to its end, for the sake of the connection."""
    cdef int code = question_hear(loop, client)
    if code == FP_AGAIN:
        return STEP_WAIT
    if code != FP_DONE:
        return failed(loop, client, REFUSE_UPSTREAM)
    outlier_answered(loop, client.upstream.slot)
    return dispatch_heard(loop, client)


# ---- by ourselves ----

cdef int exchange_expired(loop_t *loop, client_t *client) noexcept nogil:
    if not is_unanswered(client):
        count(&http_of(loop).counters.refused[<int>REFUSE_TIMEOUT], 1)
        access_ends(client, ENDED_TIMEOUT)
        exchange_count(loop, client)
        return STEP_CUT
    if client.total_deadline_ms and client.total_deadline_ms <= loop.now_ms:
        return -REFUSE_TIMEOUT
    if client.is_request_done or client.is_deaf or flow_waits(&client.request):
        return failed(loop, client, REFUSE_TIMEOUT)
    return -REFUSE_BODY_TIMEOUT


cdef int exchange_answer(loop_t *loop, client_t *client, refusal_t why) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef flow_t *flow = &client.response
    cdef ending_t ending = ENDING_CLOSE
    cdef const answer_t *answer
    question_drop(loop, client)
    if client.has_filters:
        filters_answer(loop, client, why)
    answer = http.reply.answer
    if answer == NULL:
        answer = answer_of(why)
    count(&http.counters.refused[<int>why], 1)
    access_refused(loop, client, why, 0 if client.method == METHOD_HEAD else answer.body.size)
    queue_leave(loop, client)
    if client.upstream != NULL:
        if is_backends_fault(client, why):
            outlier_failed(loop, client.upstream.slot)
        pool_close(loop, client.upstream)
    if client.head != NULL:
        slab_put(&http.stores.heads, client.head)
        client.head = NULL
    if client.has_body or client_drains(loop, client):
        client.wants_keep = False
    client.request.keeps_head = False
    client.request.head_start = client.request.head_end
    flow_clear(loop, &http.stores, flow)
    flow.head = <uint8_t *>slab_get(&http.stores.forwards)
    if flow.head == NULL:
        reply_clear(&http.reply)
        return STEP_CUT
    if client.wants_keep:
        ending = ENDING_KEEP_10 if client.is_old else ENDING_KEEP
    flow.head_start = 0
    flow.head_end = <uint16_t>answer_write(flow.head, answer, &http.reply,
                                           client.method == METHOD_HEAD, ending)
    client.status = answer.status
    client.state = CLIENT_ANSWER
    reply_clear(&http.reply)
    client.deadline_ms = loop.now_ms + ANSWER_MS
    client.total_deadline_ms = 0
    exchange_count(loop, client)
    return exchange_answering(loop, client)


cdef bint is_backends_fault(const client_t *client, refusal_t why) noexcept nogil:
    """Whether the backend gave no answer that makes sense, or none in time to a whole request."""
    if client.state != CLIENT_EXCHANGE:
        return False
    if why == REFUSE_UPSTREAM:
        # It may close a socket that was idle in the pool just when a request is on its way.
        return not client.is_pooled or client.response.raw_end > 0
    return why == REFUSE_TIMEOUT and client.is_request_done


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
