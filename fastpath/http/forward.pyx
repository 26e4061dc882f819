"""Heads as we send them on (RFC 9110, 7.6; RFC 7239)."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.forwarded cimport forwarded_put, put_host
from fastpath.http.framing cimport BODY_CHUNKED, BODY_LENGTH
from fastpath.http.http1 cimport (
    FIELD_CONNECTION, FIELD_CONTENT_LENGTH, FIELD_EXPECT, FIELD_HOP, FIELD_OTHER, FIELD_TE,
    FIELD_TRAILER, FIELD_TRANSFER_ENCODING, FIELD_UPGRADE, field_t, is_named,
)
from fastpath.http.writing cimport put, put_field, put_number, put_text


cdef size_t forward_request(uint8_t *out, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer,
                            const sockaddr_any_t *source) noexcept nogil:
    cdef uint8_t *end = out
    cdef const field_t *field
    cdef uint16_t i
    end = put(end, data + head.method_name.at, head.method_name.size)
    end = put_text(end, b" ")
    if request.is_asterisk:
        end = put_text(end, b"*")
    else:
        end = put(end, request.path, request.path_size)
        end = put(end, data + request.query.at, request.query.size)
    end = put_text(end, b" HTTP/1.1\r\nHost: ")
    if request.new_host.size > 0:
        end = put(end, request.new_host.data, request.new_host.size)
    else:
        end = put_host(end, request, data, peer)
    end = put_text(end, b"\r\n")
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_OTHER or field.kind == FIELD_EXPECT or field.kind == FIELD_TRAILER:
            end = put_field(end, field, data)
    if request.body.kind == BODY_LENGTH:
        end = put_text(end, b"Content-Length: ")
        end += put_number(end, request.body.remaining)
        end = put_text(end, b"\r\n")
    elif request.body.kind == BODY_CHUNKED:
        end = put_text(end, b"Transfer-Encoding: chunked\r\n")
    elif has_length(head):
        end = put_text(end, b"Content-Length: 0\r\n")
    if request.is_websocket:
        end = put_text(end, b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    elif request.options.takes_trailers:
        end = put_text(end, b"Connection: TE\r\nTE: trailers\r\n")
    end = forwarded_put(end, request, head, data, peer, source)
    if request.lines.size > 0:
        end = put(end, request.lines.data, request.lines.size)
    if request.target_lines.size > 0:
        end = put(end, request.target_lines.data, request.target_lines.size)
    end = put_text(end, b"\r\n")
    return end - out


cdef bint has_length(const head_t *head) noexcept nogil:
    """Whether the client said Content-Length, be it 0: a POST without one is refused by some."""
    cdef uint16_t i
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_CONTENT_LENGTH:
            return True
    return False


cdef size_t forward_response(uint8_t *out, const head_t *head, const uint8_t *data,
                             const text_t *lines, const body_t *body, bint as_chunks,
                             ending_t ending) noexcept nogil:
    cdef uint8_t *end = out
    cdef const field_t *field
    cdef uint16_t i
    # A 1xx or 204 has no Content-Length (RFC 9110, 8.6); equal ones are said once.
    cdef bint is_sized = body.kind != BODY_CHUNKED and head.status >= 200 and head.status != 204
    end = put_text(end, b"HTTP/1.1")
    end = put(end, data + head.start.at + 8, head.start.size - 8)
    if head.start.size == 12:
        end = put_text(end, b" ")         # the space is not optional, the phrase is
    end = put_text(end, b"\r\n")
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_CONTENT_LENGTH:
            if is_sized:
                end = put_field(end, field, data)
                is_sized = False
        elif field.kind not in (FIELD_CONNECTION, FIELD_HOP, FIELD_TE, FIELD_TRANSFER_ENCODING,
                                FIELD_UPGRADE):
            end = put_field(end, field, data)
    if lines != NULL and lines.size > 0:
        end = put(end, lines.data, lines.size)
    if as_chunks:
        end = put_text(end, b"Transfer-Encoding: chunked\r\n")
    if ending == ENDING_CLOSE:
        end = put_text(end, b"Connection: close\r\n")
    elif ending == ENDING_KEEP_10:
        end = put_text(end, b"Connection: keep-alive\r\n")
    elif ending == ENDING_UPGRADE:
        end = put_text(end, b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    end = put_text(end, b"\r\n")
    return end - out


cdef bint may_trail(const field_t *field, const uint8_t *data) noexcept nogil:
    """Whether a field may come after the body: not what routes, frames or authenticates
    (RFC 9110, 6.5.1), or what we vouch for."""
    cdef const uint8_t *name = data + field.name.at
    cdef uint16_t size = field.name.size
    if field.kind != FIELD_OTHER:
        return False
    return not (is_named(name, size, b"authorization") or is_named(name, size, b"cookie")
                or is_named(name, size, b"set-cookie") or is_named(name, size, b"content-type")
                or is_named(name, size, b"content-encoding")
                or is_named(name, size, b"content-range") or is_named(name, size, b"range")
                or is_named(name, size, b"cache-control"))


cdef bint is_digest(const uint8_t *name, uint16_t size) noexcept nogil:
    return (is_named(name, size, b"content-digest") or is_named(name, size, b"repr-digest")
            or is_named(name, size, b"digest") or is_named(name, size, b"content-md5"))


cdef size_t forward_trailers(uint8_t *out, const head_t *head, const uint8_t *data,
                             bint is_coded) noexcept nogil:
    cdef uint8_t *end = put_text(out, b"0\r\n")
    cdef const field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if may_trail(field, data) and not (
                is_coded and is_digest(data + field.name.at, field.name.size)):
            end = put_field(end, field, data)
    end = put_text(end, b"\r\n")
    return end - out
