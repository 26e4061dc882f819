"""forward_auth: another service is asked whether a request may go on."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from fastpath.http.filters.headers cimport headers_drop
from fastpath.http.forwarded cimport forwarded_put, put_host
from fastpath.http.http1 cimport (
    FIELD_HOP, FIELD_MANAGED, FIELD_OTHER, REFUSE_BUSY, REFUSE_NO_BACKEND, field_t, head_t,
    is_named,
)
from fastpath.http.state cimport http_of, http_t, question_t
from fastpath.http.subrequest cimport question_drop
from fastpath.http.writing cimport put, put_field, put_text
from fastpath.memory.slab cimport slab_get, slab_put


cdef bint is_of_the_resource(const field_t *field, const uint8_t *data) noexcept nogil:
    """Whether it is about a version or a part of what is asked for, which is not what the answer to
    our question is: a 304 or 416 would come of it."""
    cdef const uint8_t *name = data + field.name.at
    cdef uint16_t size = field.name.size
    if size == 5:
        return is_named(name, size, b"range")
    if size < 8 or size > 19 or not is_named(name, 3, b"if-"):
        return False
    return (is_named(name, size, b"if-match") or is_named(name, size, b"if-none-match")
            or is_named(name, size, b"if-range") or is_named(name, size, b"if-modified-since")
            or is_named(name, size, b"if-unmodified-since"))


cdef void tell(head_t *head, const uint8_t *data, uint8_t before, uint8_t after) noexcept nogil:
    """Turn a trusted proxy's fields of the names that are the question's own into others."""
    cdef field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == before and (
            is_named(data + field.name.at, field.name.size, b"x-forwarded-method")
            or is_named(data + field.name.at, field.name.size, b"x-forwarded-uri")
        ):
            field.kind = after


cdef size_t put_question(uint8_t *out, const client_t *client, const request_t *request,
                         const forward_auth_t *auth) noexcept nogil:
    """Write the question's head; its size."""
    cdef head_t *head = client.head
    cdef const uint8_t *data = client.request.buffer
    cdef const field_t *field
    cdef uint8_t *end = put_text(out, b"GET ")
    cdef uint16_t i
    end = put(end, auth.path.data, auth.path.size)
    end = put_text(end, b" HTTP/1.1\r\nHost: ")
    end = put_host(end, request, data, &client.peer)
    end = put_text(end, b"\r\n")
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_OTHER and not is_of_the_resource(field, data):
            end = put_field(end, field, data)
    end = put_text(end, b"X-Forwarded-Method: ")
    end = put(end, data + head.method_name.at, head.method_name.size)
    end = put_text(end, b"\r\nX-Forwarded-Uri: ")
    if request.is_asterisk:
        end = put_text(end, b"*")
    else:
        end = put(end, request.path, request.path_size)
        end = put(end, data + request.query.at, request.query.size)
    end = put_text(end, b"\r\n")
    tell(head, data, FIELD_MANAGED, FIELD_HOP)
    end = forwarded_put(end, request, head, data, &client.peer, &client.address)
    tell(head, data, FIELD_HOP, FIELD_MANAGED)
    end = put_text(end, b"\r\n")
    return end - out


cdef int forward_auth_prepare(loop_t *loop, client_t *client, request_t *request,
                              const forward_auth_t *auth, const route_t *route) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef question_t *question
    # What such a route rewrites would be for another one, which does not ask.
    if auth.service == NULL or route.n_targets == 0:
        return -REFUSE_NO_BACKEND
    question_drop(loop, client)
    question = <question_t *>slab_get(&http.questions)
    if question == NULL:
        return -REFUSE_BUSY
    question.head = <uint8_t *>slab_get(&http.stores.forwards)
    if question.head == NULL:
        slab_put(&http.questions, question)
        return -REFUSE_BUSY
    question.asked_slot = auth.service.slot
    question.head_size = <uint16_t>put_question(question.head, client, request, auth)
    question.names_size = <uint16_t>auth.names.size
    memcpy(question.names, auth.names.data, auth.names.size)
    client.question = question
    headers_drop(client.head, client.request.buffer, &auth.copied)
    request.body.is_bare = auth.names.size > 0
    return 0
