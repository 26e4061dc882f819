"""redirect: the client is told another place to ask at."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.filters.paths cimport path_rest
from fastpath.http.http1 cimport REFUSE_REDIRECT, REFUSE_TARGET_SIZE, TARGET_SIZE_MAX
from fastpath.http.writing cimport put, put_number

cdef enum:
    PORT_HTTP = 80
    PORT_HTTPS = 443


cdef int redirect_reply(reply_t *reply, const redirect_t *redirect, const request_t *request,
                        const route_t *route, const client_t *client) noexcept nogil:
    cdef uint8_t *end = reply.fields
    # The whole path, or what follows the route's prefix in it.
    cdef uint16_t at = path_rest(request, route) if redirect.by_prefix else 0
    cdef uint16_t kept = request.path_size - at if redirect.keeps_path else 0
    if redirect.path.size + kept + request.query.size > TARGET_SIZE_MAX:
        return -REFUSE_TARGET_SIZE
    end = put(end, b"Location: ", 10)
    end = put_authority(end, redirect, request, client)
    end = put(end, redirect.path.data, redirect.path.size)
    end = put(end, request.path + at, kept)
    if redirect.path.size + kept == 0:
        end = put(end, b"/", 1)
    end = put(end, client.request.buffer + request.query.at, request.query.size)
    end = put(end, b"\r\n", 2)
    reply.fields_size = <uint16_t>(end - reply.fields)
    reply.answer = &redirect.answer
    return -REFUSE_REDIRECT


cdef uint8_t *put_authority(uint8_t *end, const redirect_t *redirect, const request_t *request,
                            const client_t *client) noexcept nogil:
    """`http://host:port`, without the port that the scheme has anyway."""
    cdef uint16_t port = redirect.port or client.peer.port
    cdef bint is_https = redirect.is_https
    end = put(end, b"https://" if is_https else b"http://", 7 + is_https)
    if redirect.host.size > 0:
        end = put(end, redirect.host.data, redirect.host.size)
    elif request.host_size > 0:
        end = put(end, request.host, request.host_size)
    else:                       # HTTP/1.0 may do without one
        end = put(end, client.peer.local, client.peer.local_size - client.peer.port_size - 1)
    if port != (PORT_HTTPS if is_https else PORT_HTTP):
        end = put(end, b":", 1)
        end += put_number(end, port)
    return end
