"""A route's filters, one after the other."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from fastpath.http.answers cimport answer_of, answer_t, reply_t
from fastpath.http.encoders cimport ENCODING_NONE
from fastpath.http.filters.admission cimport (
    admission_body, admission_enter, admission_leave, admission_source,
)
from fastpath.http.filters.auth cimport auth_check, auth_done, auth_put, auth_waited
from fastpath.http.filters.compress cimport compress_put, compress_response, compress_wanted
from fastpath.http.filters.cors cimport cors_done, cors_note, cors_preflight, cors_put
from fastpath.http.filters.forward_auth cimport forward_auth_prepare
from fastpath.http.filters.headers cimport headers_drop
from fastpath.http.filters.paths cimport path_rewrite
from fastpath.http.filters.rates cimport rate_check
from fastpath.http.filters.redirect cimport redirect_reply
from fastpath.http.filters.table cimport (
    HAS_AUTH, HAS_BODY_LIMIT, HAS_COMPRESS, HAS_CORS, HAS_FORWARD_AUTH, HAS_HOST, HAS_IN_FLIGHT,
    HAS_PAGES, HAS_PATH, HAS_RATE, HAS_REDIRECT, HAS_REQUEST_HEADERS, HAS_RESPOND,
    HAS_RESPONSE_HEADERS, HAS_SOURCES, filters_t, target_filters_t,
)
from fastpath.http.http1 cimport REFUSE_PREFLIGHT, REFUSE_RESPOND
from fastpath.http.mirror cimport mirror_drop
from fastpath.http.state cimport http_of, http_t, route_of
from fastpath.http.subrequest cimport question_drop
from fastpath.http.writing cimport put


cdef int filters_request(loop_t *loop, client_t *client, request_t *request,
                         const route_t *route) noexcept nogil:
    cdef const filters_t *filters = <const filters_t *>route.filters
    cdef int code = 0
    client.encoding = ENCODING_NONE
    if filters.kinds & HAS_COMPRESS:
        client.encoding = compress_wanted(filters, client.head, client.request.buffer)
    if filters.kinds & HAS_CORS:
        code = cors_note(loop, client, &filters.cors)
    if code == 0 and filters.kinds & HAS_SOURCES:
        code = admission_source(filters, &client.address)
    if code == 0 and filters.kinds & HAS_IN_FLIGHT:
        code = admission_enter(loop, client, filters.in_flight_max)
    if code == 0 and filters.kinds & HAS_RATE and not auth_waited(client, route):
        code = rate_check(loop, client, &filters.rate, route)
    if code == 0 and filters.kinds & HAS_BODY_LIMIT:
        code = admission_body(&request.body, filters.body_size_max)
    if code == 0 and filters.kinds & HAS_CORS:
        code = cors_preflight(client, &filters.cors, &http_of(loop).reply)
    # Browsers send no credentials with a preflight.
    if code == 0 and filters.kinds & HAS_AUTH:
        code = auth_check(loop, client, &filters.auth, route)
    if code == 0 and filters.kinds & HAS_FORWARD_AUTH:
        code = forward_auth_prepare(loop, client, request, &filters.forward_auth, route)
    if code == 0 and filters.kinds & (HAS_RESPOND | HAS_REDIRECT):
        code = own_answer(loop, client, request, route)
    if code == 0 and filters.kinds & (HAS_HOST | HAS_PATH | HAS_REQUEST_HEADERS):
        code = edit(client, request, route)
    return code


cdef int own_answer(loop_t *loop, client_t *client, const request_t *request,
                    const route_t *route) noexcept nogil:
    """No backend is asked."""
    cdef const filters_t *filters = <const filters_t *>route.filters
    cdef http_t *http = http_of(loop)
    if filters.kinds & HAS_RESPOND:
        http.reply.answer = &filters.respond
        return -REFUSE_RESPOND
    return redirect_reply(&http.reply, &filters.redirect, request, route, client)


cdef int edit(client_t *client, request_t *request, const route_t *route) noexcept nogil:
    """What the backend gets is another request."""
    cdef const filters_t *filters = <const filters_t *>route.filters
    if filters.kinds & HAS_REQUEST_HEADERS:
        headers_drop(client.head, client.request.buffer, &filters.request_headers)
        request.lines = filters.request_headers.lines
    if filters.kinds & HAS_HOST:
        request.new_host = filters.new_host
        request.host_size = <uint16_t>filters.new_host.size
        memcpy(request.host, filters.new_host.data, filters.new_host.size)
        request.is_rewritten = True
    if filters.kinds & HAS_PATH:
        request.is_rewritten = True
        return path_rewrite(request, filters, route)
    return 0


cdef const target_filters_t *target_of(const client_t *client,
                                       const route_t *route) noexcept nogil:
    """Those of the target that was chosen, or NULL."""
    cdef const filters_t *filters = <const filters_t *>route.filters
    cdef uint32_t i
    if filters.of_targets == NULL:
        return NULL
    for i in range(route.n_targets):
        if (route.targets[i].service != NULL
                and route.targets[i].service.slot == client.service_slot):
            return &filters.of_targets[i]
    return NULL


cdef void filters_target(client_t *client, request_t *request,
                         const route_t *route) noexcept nogil:
    cdef const target_filters_t *target = target_of(client, route)
    if target != NULL:
        headers_drop(client.head, client.request.buffer, &target.request_headers)
        request.target_lines = target.request_headers.lines


cdef const filters_t *filters_of(const route_t *route) noexcept nogil:
    return <const filters_t *>route.filters if route != NULL else NULL


cdef const target_filters_t *target_that_answers(const client_t *client,
                                                 const route_t *route) noexcept nogil:
    """The same for a response; what came of a question to another service is no target's."""
    return target_of(client, route) if client.question == NULL else NULL


cdef const text_t *filters_response(loop_t *loop, client_t *client) noexcept nogil:
    cdef const route_t *route = route_of(loop, client)
    cdef const filters_t *filters = filters_of(route)
    cdef const target_filters_t *target
    cdef const text_t *lines = NULL
    if filters == NULL:
        return NULL
    target = target_that_answers(client, route)
    if target != NULL:
        headers_drop(client.head, client.response.buffer, &target.response_headers)
    if filters.kinds & HAS_CORS:
        headers_drop(client.head, client.response.buffer, &filters.cors.dropped)
    if filters.kinds & HAS_RESPONSE_HEADERS:
        headers_drop(client.head, client.response.buffer, &filters.response_headers)
        lines = &filters.response_headers.lines
    if filters.kinds & HAS_COMPRESS:
        compress_response(http_of(loop), client, lines,
                          &target.response_headers.lines if target != NULL else NULL)
    return lines


cdef uint8_t *filters_put(uint8_t *out, loop_t *loop, const client_t *client) noexcept nogil:
    cdef const route_t *route = route_of(loop, client)
    cdef const filters_t *filters = filters_of(route)
    cdef const target_filters_t *target
    if filters == NULL:
        return out
    target = target_that_answers(client, route)
    if target != NULL and target.response_headers.lines.size > 0:
        out = put(out, target.response_headers.lines.data, target.response_headers.lines.size)
    if filters.kinds & HAS_CORS:
        out = cors_put(out, client, &filters.cors, True)
    return compress_put(out, http_of(loop), client) if filters.kinds & HAS_COMPRESS else out


cdef void filters_answer(loop_t *loop, const client_t *client, refusal_t why) noexcept nogil:
    cdef const filters_t *filters = filters_of(route_of(loop, client))
    cdef reply_t *reply = &http_of(loop).reply
    cdef uint8_t *end
    if filters == NULL:
        return
    if filters.kinds & HAS_PAGES and reply.answer == NULL:
        reply.answer = page_of(filters, answer_of(why).status)
    if filters.kinds & HAS_AUTH:
        end = auth_put(reply.fields + reply.fields_size, &filters.auth, why)
        reply.fields_size = <uint16_t>(end - reply.fields)
    if filters.kinds & HAS_CORS:
        end = cors_put(reply.fields + reply.fields_size, client, &filters.cors,
                       why != REFUSE_PREFLIGHT)
        reply.fields_size = <uint16_t>(end - reply.fields)


cdef const answer_t *page_of(const filters_t *filters, uint16_t status) noexcept nogil:
    cdef uint32_t i
    for i in range(filters.n_pages):
        if filters.pages[i].status == status:
            return &filters.pages[i]
    return NULL


cdef void filters_done(loop_t *loop, client_t *client) noexcept nogil:
    cors_done(loop, client)
    if client.check != NULL:
        auth_done(loop, client)
    question_drop(loop, client)
    mirror_drop(loop, client)
    if client.is_in_flight:
        admission_leave(loop, client)
