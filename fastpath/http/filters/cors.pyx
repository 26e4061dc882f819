"""cors: whose pages may read what the route answers."""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastpath.http.filters.table cimport origin_t
from fastpath.http.http1 cimport (
    FIELD_OTHER, METHOD_OPTIONS, METHOD_SIZE_MAX, REFUSE_BUSY, REFUSE_PREFLIGHT, field_t, is_named,
)
from fastpath.http.state cimport ORIGIN_SIZE_MAX, asker_t, http_of
from fastpath.http.writing cimport put, put_text
from fastpath.memory.slab cimport slab_get, slab_put

cdef enum:
    ASKED_HEADERS_MAX = 1024    # bytes of Access-Control-Request-Headers that are said again


cdef const field_t *find(const client_t *client, const char *name) noexcept nogil:
    """The first field of that name in the request's head, or NULL."""
    cdef const uint8_t *data = client.request.buffer
    cdef const field_t *field
    cdef uint16_t i
    for i in range(client.head.fields_count):
        field = &client.head.fields[i]
        if field.kind == FIELD_OTHER and is_named(data + field.name.at, field.name.size, name):
            return field
    return NULL


cdef inline bint is_in_a_name(uint8_t byte) noexcept nogil:
    """Whether it may stand for `*`: in a name of a host."""
    return (c"a" <= byte <= c"z" or c"0" <= byte <= c"9"
            or byte == c"-" or byte == c"." or byte == c"_")


cdef bint is_origin(const origin_t *origin, const uint8_t *text, uint16_t size) noexcept nogil:
    cdef uint32_t end
    cdef uint32_t i
    if origin.tail.size == 0:
        return size == origin.head.size and memcmp(text, origin.head.data, size) == 0
    if size <= origin.head.size + origin.tail.size:
        return False
    end = size - origin.tail.size
    if (memcmp(text, origin.head.data, origin.head.size) != 0
            or memcmp(text + end, origin.tail.data, origin.tail.size) != 0
            or text[origin.head.size] == c"."):
        return False
    for i in range(origin.head.size, end):
        if not is_in_a_name(text[i]):
            return False
    return True


cdef bint may_ask(const cors_t *cors, const uint8_t *text, uint16_t size) noexcept nogil:
    cdef uint32_t i
    if size == 0 or size > ORIGIN_SIZE_MAX:
        return False
    if not cors.is_open:
        for i in range(cors.n_origins):
            if is_origin(&cors.origins[i], text, size):
                return True
        return False
    for i in range(size):       # it is said again
        if not c"!" <= text[i] <= c"~":
            return False
    return True


cdef int cors_note(loop_t *loop, client_t *client, const cors_t *cors) noexcept nogil:
    cdef const field_t *field = find(client, b"origin")
    cdef const uint8_t *text
    cors_done(loop, client)     # of a route that led to this one
    if field == NULL or cors.says_star:
        return 0
    text = client.request.buffer + field.value.at
    if not may_ask(cors, text, field.value.size):
        return 0
    client.asker = <asker_t *>slab_get(&http_of(loop).askers)
    if client.asker == NULL:
        return -REFUSE_BUSY
    client.asker.size = field.value.size
    memcpy(client.asker.origin, text, field.value.size)
    return 0


cdef bint is_list_of_names(const uint8_t *text, uint16_t size) noexcept nogil:
    """Whether all of it is of tokens, commas and spaces."""
    cdef uint16_t i
    cdef uint8_t byte
    for i in range(size):
        byte = text[i]
        if not (c"a" <= byte | 0x20 <= c"z" or c"0" <= byte <= c"9" or byte == c"-"
                or byte == c"_" or byte == c"." or byte == c"," or byte == c" "):
            return False
    return size > 0


cdef uint8_t *put_echo(uint8_t *end, const char *name, const client_t *client,
                       const field_t *field, uint16_t most) noexcept nogil:
    """Say again what was asked for, if that is harmless."""
    cdef const uint8_t *text
    if field == NULL or field.value.size > most:
        return end
    text = client.request.buffer + field.value.at
    if not is_list_of_names(text, field.value.size):
        return end
    end = put_text(end, name)
    end = put(end, text, field.value.size)
    return put_text(end, b"\r\n")


cdef int cors_preflight(const client_t *client, const cors_t *cors, reply_t *reply) noexcept nogil:
    cdef uint8_t *end = reply.fields
    cdef const field_t *method
    if client.head.method != METHOD_OPTIONS or find(client, b"origin") == NULL:
        return 0
    method = find(client, b"access-control-request-method")
    if method == NULL:
        return 0
    if client.asker != NULL or cors.says_star:
        end = put(end, cors.allowed.data, cors.allowed.size)
        if cors.echoes_method:
            end = put_echo(end, b"Access-Control-Allow-Methods: ", client, method, METHOD_SIZE_MAX)
        if cors.echoes_headers:
            end = put_echo(end, b"Access-Control-Allow-Headers: ", client,
                           find(client, b"access-control-request-headers"), ASKED_HEADERS_MAX)
    reply.fields_size = <uint16_t>(end - reply.fields)
    reply.answer = &cors.answer
    return -REFUSE_PREFLIGHT


cdef uint8_t *cors_put(uint8_t *out, const client_t *client, const cors_t *cors,
                       bint exposes) noexcept nogil:
    cdef uint8_t *end = out
    if cors.says_star:
        end = put_text(end, b"Access-Control-Allow-Origin: *\r\n")
    else:
        # Caches are to keep apart what one origin is told and what another one is.
        end = put_text(end, b"Vary: Origin\r\n")
        if client.asker == NULL:
            return end
        end = put_text(end, b"Access-Control-Allow-Origin: ")
        end = put(end, client.asker.origin, client.asker.size)
        end = put_text(end, b"\r\n")
    end = put(end, cors.credentials.data, cors.credentials.size)
    return put(end, cors.exposed.data, cors.exposed.size) if exposes else end


cdef void cors_done(loop_t *loop, client_t *client) noexcept nogil:
    if client.asker != NULL:
        slab_put(&http_of(loop).askers, client.asker)
        client.asker = NULL
