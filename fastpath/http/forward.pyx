"""Heads as we send them on (RFC 9110, 7.6; RFC 7239)."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, strlen

from fastpath.http.framing cimport BODY_CHUNKED, BODY_LENGTH
from fastpath.http.http1 cimport (
    FIELD_CONNECTION, FIELD_CONTENT_LENGTH, FIELD_EXPECT, FIELD_HOP, FIELD_OTHER, FIELD_TE,
    FIELD_TRAILER, FIELD_TRANSFER_ENCODING, FIELD_UPGRADE, field_t, is_named,
)

from fastpath.sys_linux cimport AF_INET, AF_INET6, inet_ntop, ntohs, sockaddr_any_t


cdef inline uint8_t *put(uint8_t *out, const void *text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


cdef inline uint8_t *put_text(uint8_t *out, const char *text) noexcept nogil:
    """A literal: its length is known to the compiler."""
    return put(out, text, strlen(text))


cdef size_t put_number(uint8_t *out, unsigned long long value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef size_t n = 0
    cdef size_t i
    while True:
        digits[n] = c"0" + <uint8_t>(value % 10)
        value = value // 10
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline uint8_t *put_field(uint8_t *out, const field_t *field,
                               const uint8_t *data) noexcept nogil:
    """A field line as it came; in one piece when it is spelled as we would."""
    if field.value.at == field.name.at + field.name.size + 2:
        out = put(out, data + field.name.at, field.name.size + 2 + field.value.size)
    else:
        out = put(out, data + field.name.at, field.name.size)
        out = put_text(out, b": ")
        out = put(out, data + field.value.at, field.value.size)
    return put_text(out, b"\r\n")


cdef uint8_t put_address(uint8_t *out, const sockaddr_any_t *address) noexcept nogil:
    """Write an IP address; its size."""
    cdef char *text = <char *>out
    if address.any.sa_family == AF_INET:
        inet_ntop(AF_INET, &address.v4.sin_addr, text, ADDRESS_SIZE_MAX)
    else:
        inet_ntop(AF_INET6, &address.v6.sin6_addr, text, ADDRESS_SIZE_MAX)
    return <uint8_t>strlen(text)


cdef void peer_init(peer_t *self, const sockaddr_any_t *peer,
                    const sockaddr_any_t *local) noexcept nogil:
    cdef uint8_t *end = self.local
    cdef uint16_t port
    self.is_v6 = peer.any.sa_family != AF_INET
    self.address_size = put_address(self.address, peer)
    if self.is_v6:
        end = put_text(end, b"[")
        end += put_address(end, local)
        end = put_text(end, b"]:")
        port = ntohs(local.v6.sin6_port)
    else:
        end += put_address(end, local)
        end = put_text(end, b":")
        port = ntohs(local.v4.sin_port)
    self.port_size = <uint8_t>put_number(end, port)
    self.local_size = <uint8_t>(end - self.local) + self.port_size


cdef inline uint8_t *put_host(uint8_t *out, const request_t *request, const uint8_t *data,
                              const peer_t *peer) noexcept nogil:
    """The host as it was sent; without one (HTTP/1.0) where the client connected to."""
    if request.host_field.size == 0:
        return put(out, peer.local, peer.local_size)
    return put(out, data + request.host_field.at, request.host_field.size)


cdef size_t forward_request(uint8_t *out, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer) noexcept nogil:
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
    end = put_origin(end, request, data, peer)
    end = put_text(end, b"\r\n")
    return end - out


cdef bint has_length(const head_t *head) noexcept nogil:
    """Whether the client said Content-Length, be it 0: a POST without one is refused by some."""
    cdef uint16_t i
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_CONTENT_LENGTH:
            return True
    return False


cdef uint8_t *put_origin(uint8_t *end, const request_t *request, const uint8_t *data,
                         const peer_t *peer) noexcept nogil:
    """Where the request comes from. What the client said of it is gone: nobody is trusted."""
    end = put_text(end, b"X-Forwarded-For: ")
    end = put(end, peer.address, peer.address_size)
    end = put_text(end, b"\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: ")
    end = put_host(end, request, data, peer)
    end = put_text(end, b"\r\nX-Forwarded-Port: ")
    end = put(end, peer.local + peer.local_size - peer.port_size, peer.port_size)
    end = put_text(end, b"\r\nX-Real-Ip: ")
    end = put(end, peer.address, peer.address_size)
    if peer.is_v6:
        end = put_text(end, b"\r\nForwarded: for=\"[")
        end = put(end, peer.address, peer.address_size)
        end = put_text(end, b"]\"")
    else:
        end = put_text(end, b"\r\nForwarded: for=")
        end = put(end, peer.address, peer.address_size)
    end = put_text(end, b";host=\"")
    end = put_host(end, request, data, peer)
    return put_text(end, b"\";proto=http\r\n")


cdef size_t forward_response(uint8_t *out, const head_t *head, const uint8_t *data,
                             const body_t *body, bint as_chunks, ending_t ending) noexcept nogil:
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


cdef size_t forward_trailers(uint8_t *out, const head_t *head, const uint8_t *data) noexcept nogil:
    cdef uint8_t *end = put_text(out, b"0\r\n")
    cdef uint16_t i
    for i in range(head.fields_count):
        if may_trail(&head.fields[i], data):
            end = put_field(end, &head.fields[i], data)
    end = put_text(end, b"\r\n")
    return end - out
