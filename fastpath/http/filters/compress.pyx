"""compress: responses in a content coding that the client takes."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memset, strlen

from fastpath.http.coded cimport coded_begin
from fastpath.http.coders cimport coder_get, coder_t
from fastpath.http.encoders cimport (
    ENCODING_BR, ENCODING_GZIP, ENCODING_NONE, ENCODING_ZSTD, ENCODINGS,
)
from fastpath.http.filters.lists cimport element_t, list_has, list_next
from fastpath.http.flow cimport flow_t
from fastpath.http.forward cimport is_digest
from fastpath.http.framing cimport BODY_LENGTH, BODY_NONE
from fastpath.http.http1 cimport (
    FIELD_CONTENT_LENGTH, FIELD_HOP, FIELD_OTHER, METHOD_HEAD, field_t, is_named,
)
from fastpath.http.state cimport compressed_t
from fastpath.http.writing cimport put, put_text

cdef enum:
    UNSAID = 0xFFFF             # in place of a weight
    WEIGHT_MAX = 1000


# ---- what the client takes ----

cdef struct weights_t:          # in thousandths
    uint16_t of[<int>ENCODINGS]     # ENCODING_NONE: identity
    uint16_t others             # `*`


cdef uint16_t weight_of(const uint8_t *text, uint16_t size) noexcept nogil:
    """A qvalue (RFC 9110, 12.4.2) in thousandths; UNSAID for what is none."""
    cdef uint16_t weight, unit
    cdef uint16_t i
    if size == 0 or size > 5 or not c"0" <= text[0] <= c"1":
        return UNSAID
    weight = (text[0] - c"0") * <uint16_t>WEIGHT_MAX
    if size > 1 and text[1] != c".":
        return UNSAID
    unit = 100
    for i in range(2, size):
        if not c"0" <= text[i] <= c"9":
            return UNSAID
        weight += (text[i] - c"0") * unit
        unit = unit // 10
    return weight if weight <= WEIGHT_MAX else UNSAID


cdef uint16_t *place_of(weights_t *weights, const element_t *coding) noexcept nogil:
    """Where the weight of a coding of that name is kept; NULL: it is none of ours."""
    if is_named(coding.text, coding.size, b"gzip") or is_named(coding.text, coding.size, b"x-gzip"):
        return &weights.of[<int>ENCODING_GZIP]
    if is_named(coding.text, coding.size, b"br"):
        return &weights.of[<int>ENCODING_BR]
    if is_named(coding.text, coding.size, b"zstd"):
        return &weights.of[<int>ENCODING_ZSTD]
    if is_named(coding.text, coding.size, b"identity"):
        return &weights.of[<int>ENCODING_NONE]
    return &weights.others if coding.size == 1 and coding.text[0] == c"*" else NULL


cdef void read_element(weights_t *weights, const element_t *element) noexcept nogil:
    """Note one coding with its weight. One that is malformed says nothing."""
    cdef element_t part
    cdef uint16_t *place
    cdef uint16_t at = 0
    cdef uint16_t weight = WEIGHT_MAX
    if not list_next(element.text, element.size, c";", &at, &part):
        return
    place = place_of(weights, &part)
    while list_next(element.text, element.size, c";", &at, &part):
        if part.size == 0:
            continue
        if part.size < 2 or part.text[0] | 0x20 != c"q" or part.text[1] != c"=":
            return
        weight = weight_of(part.text + 2, part.size - 2)
        if weight == UNSAID:
            return
    if place != NULL:
        place[0] = weight


cdef bint read_weights(weights_t *weights, const head_t *head, const uint8_t *data) noexcept nogil:
    """False when the request wants its response as it is."""
    cdef element_t element
    cdef const field_t *field
    cdef const uint8_t *name
    cdef const uint8_t *value
    cdef uint16_t i, at
    memset(weights, 0xFF, sizeof(weights_t))    # UNSAID
    for i in range(head.fields_count):
        field = &head.fields[i]
        name = data + field.name.at
        value = data + field.value.at
        if field.kind != FIELD_OTHER:
            continue
        if is_named(name, field.name.size, b"accept-encoding"):
            at = 0
            while list_next(value, field.value.size, c",", &at, &element):
                read_element(weights, &element)
        elif (is_named(name, field.name.size, b"cache-control")
                and list_has(value, field.value.size, b"no-transform")):
            return False
    return True


cdef uint8_t compress_wanted(const filters_t *filters, const head_t *head,
                             const uint8_t *data) noexcept nogil:
    cdef weights_t weights
    cdef uint8_t best = ENCODING_NONE
    cdef uint16_t most = 0
    cdef uint16_t weight
    cdef uint8_t i
    if not read_weights(&weights, head, data):
        return ENCODING_NONE
    for i in range(filters.n_encodings):
        weight = weights.of[filters.encodings[i]]
        if weight == UNSAID:
            weight = weights.others
        if weight != UNSAID and weight > most:
            most = weight
            best = filters.encodings[i]
    weight = weights.of[<int>ENCODING_NONE]
    return ENCODING_NONE if weight != UNSAID and weight > most else best


# ---- what the backend says ----

cdef struct said_t:             # of a response
    field_t *ranges             # Accept-Ranges
    field_t *etag
    uint16_t n_types            # Content-Type fields, …
    uint16_t n_dense            # … of them those that say the body is hardly to be made smaller
    bint is_sealed              # nobody may change the body, or somebody has compressed it
    bint varies                 # by Accept-Encoding, or by more than can be said
    bint has_length


cdef bint ends(const uint8_t *text, uint16_t size, const char *end) noexcept nogil:
    cdef uint16_t n = <uint16_t>strlen(end)
    return size > n and is_named(text + size - n, n, end)


cdef bint begins(const uint8_t *text, uint16_t size, const char *start) noexcept nogil:
    cdef uint16_t n = <uint16_t>strlen(start)
    return size > n and is_named(text, n, start)


cdef bint is_wordy(const uint8_t *text, uint16_t size) noexcept nogil:
    """Whether a body of this type is worth it. Not events: their streams are open for hours, and
    each would keep an encoder."""
    cdef const uint8_t *end = <const uint8_t *>memchr(text, c";", size)
    cdef const uint8_t *sub
    cdef uint16_t n
    if end != NULL:
        size = <uint16_t>(end - text)
    while size > 0 and (text[size - 1] == c" " or text[size - 1] == c"\t"):
        size -= 1
    if begins(text, size, b"text/"):
        return not is_named(text + 5, size - 5, b"event-stream")
    if ends(text, size, b"+json") or ends(text, size, b"+xml"):
        return True
    if begins(text, size, b"font/"):
        return is_named(text + 5, size - 5, b"ttf") or is_named(text + 5, size - 5, b"otf")
    if not begins(text, size, b"application/"):
        return False
    sub = text + 12
    n = size - 12
    return (is_named(sub, n, b"json") or is_named(sub, n, b"javascript") or is_named(sub, n, b"xml")
            or is_named(sub, n, b"wasm") or is_named(sub, n, b"x-javascript")
            or is_named(sub, n, b"x-ndjson") or is_named(sub, n, b"yaml"))


cdef void hear(said_t *said, field_t *field, const uint8_t *name, uint16_t name_size,
               const uint8_t *value, uint16_t size) noexcept nogil:
    """One field; NULL for `field`: a filter writes it, so it cannot be changed."""
    if is_named(name, name_size, b"content-type"):
        said.n_types += 1
        said.n_dense += not is_wordy(value, size)
    elif is_named(name, name_size, b"etag"):
        # Of several, or of a filter's own, nobody knows which one counts.
        if said.etag != NULL or (field == NULL and size > 0 and value[0] == c'"'):
            said.is_sealed = True
        said.etag = field
    elif is_named(name, name_size, b"accept-ranges"):
        said.ranges = field
    elif is_named(name, name_size, b"vary"):
        if list_has(value, size, b"accept-encoding") or list_has(value, size, b"*"):
            said.varies = True
    elif is_named(name, name_size, b"cache-control"):
        if list_has(value, size, b"no-transform"):
            said.is_sealed = True
    elif (is_named(name, name_size, b"content-encoding")
            or is_named(name, name_size, b"content-range") or is_digest(name, name_size)):
        said.is_sealed = True


cdef void hear_lines(said_t *said, const text_t *lines) noexcept nogil:
    """Fields as a filter writes them: `name: value` and a line end each."""
    cdef const uint8_t *at
    cdef const uint8_t *colon
    cdef const uint8_t *end
    cdef uint32_t left
    if lines == NULL:
        return
    at = lines.data
    left = lines.size
    while left > 0:
        end = <const uint8_t *>memchr(at, c"\r", left)
        colon = <const uint8_t *>memchr(at, c":", left)
        if end == NULL or colon == NULL or colon + 2 > end:
            return
        hear(said, NULL, at, <uint16_t>(colon - at), colon + 2, <uint16_t>(end - colon - 2))
        left -= <uint32_t>(end + 2 - at)
        at = end + 2


cdef void hear_head(said_t *said, head_t *head, const uint8_t *data) noexcept nogil:
    cdef field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_CONTENT_LENGTH:
            said.has_length = True
        elif field.kind == FIELD_OTHER:
            hear(said, field, data + field.name.at, field.name.size, data + field.value.at,
                 field.value.size)


# ---- the response ----

cdef bint is_long(const client_t *client, const said_t *said) noexcept nogil:
    """Whether there is a body that is long enough, or whose length nobody knows."""
    cdef const flow_t *flow = &client.response
    if client.method == METHOD_HEAD:    # as GET would be answered
        return not said.has_length or flow.body.remaining >= COMPRESS_FROM
    if flow.body.kind == BODY_LENGTH:   # what came with the head is decoded already
        return flow.body.remaining + flow.out_end - flow.out_start >= COMPRESS_FROM
    return flow.body.kind != BODY_NONE


cdef bint may_be(const client_t *client, const said_t *said) noexcept nogil:
    """Whether the response is compressed for clients that take it."""
    cdef uint16_t status = client.head.status
    return (status != 204 and status != 205 and status != 206 and status != 304
            and said.n_types > 0 and said.n_dense == 0 and not said.is_sealed
            and is_long(client, said))


cdef void drop(field_t *field) noexcept nogil:
    if field != NULL:
        field.kind = FIELD_HOP


cdef void weaken(compressed_t *compressed, field_t *etag, const uint8_t *data) noexcept nogil:
    """What is byte by byte the same is not what goes out."""
    if etag == NULL or etag.value.size == 0 or data[etag.value.at] != c'"':
        return
    compressed.etag = etag.value
    drop(etag)


cdef void drop_lengths(head_t *head) noexcept nogil:
    """Equal ones may have been said several times."""
    cdef uint16_t i
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_CONTENT_LENGTH:
            drop(&head.fields[i])


cdef void compress_response(http_t *http, client_t *client, const text_t *lines,
                            const text_t *more_lines) noexcept nogil:
    cdef compressed_t *compressed = &http.compressed
    cdef head_t *head = client.head
    cdef const uint8_t *data = client.response.buffer
    cdef bint takes = client.encoding != ENCODING_NONE and not client.is_old
    cdef coder_t *coder
    cdef said_t said
    memset(compressed, 0, sizeof(compressed_t))
    memset(&said, 0, sizeof(said_t))
    hear_head(&said, head, data)
    hear_lines(&said, lines)
    hear_lines(&said, more_lines)
    if head.status == 304:              # of what a client has, maybe compressed
        compressed.varies = not said.varies
        if takes:
            weaken(compressed, said.etag, data)
        return
    if not may_be(client, &said):
        return
    compressed.varies = not said.varies
    if not takes:
        return
    if client.method != METHOD_HEAD:
        coder = coder_get(&http.stores.coders, client.encoding)
        if coder == NULL:
            return
        coded_begin(&client.response, coder)
    compressed.encoding = client.encoding
    drop_lengths(head)
    drop(said.ranges)
    weaken(compressed, said.etag, data)


cdef const char *name_of(uint8_t encoding) noexcept nogil:
    if encoding == ENCODING_GZIP:
        return b"gzip"
    return b"br" if encoding == ENCODING_BR else b"zstd"


cdef uint8_t *compress_put(uint8_t *out, const http_t *http, const client_t *client) noexcept nogil:
    cdef const compressed_t *compressed = &http.compressed
    if compressed.varies:
        out = put_text(out, b"Vary: Accept-Encoding\r\n")
    if compressed.encoding != ENCODING_NONE:
        out = put_text(out, b"Content-Encoding: ")
        out = put_text(out, name_of(compressed.encoding))
        out = put_text(out, b"\r\n")
    if compressed.etag.size > 0:
        out = put_text(out, b"ETag: W/")
        out = put(out, client.response.buffer + compressed.etag.at, compressed.etag.size)
        out = put_text(out, b"\r\n")
    return out
