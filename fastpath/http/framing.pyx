"""Body framing, strict: whatever two readers could understand in two ways is refused."""

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint64_t
from libc.string cimport memmove

from fastpath.http.http1 cimport (
    FIELD_CONNECTION, FIELD_CONTENT_LENGTH, FIELD_HOP, FIELD_OTHER, FIELD_TE,
    FIELD_TRANSFER_ENCODING, FIELD_UNDERSCORE, HEAD_SIZE_MAX, REFUSE_BODY_SIZE, REFUSE_CHUNK,
    REFUSE_CODING, REFUSE_FIELD, REFUSE_FRAMING, REFUSE_UPSTREAM, field_t, head_t, is_named,
)

cdef enum chunk_t:
    CHUNK_SIZE_FIRST            # at least one hex digit
    CHUNK_SIZE
    CHUNK_EXTENSION             # after `;`: at least one character of a name
    CHUNK_EXTENSION_NAME
    CHUNK_EXTENSION_IS          # after `=`: a token or a quoted string
    CHUNK_EXTENSION_VALUE
    CHUNK_QUOTED
    CHUNK_QUOTED_PAIR
    CHUNK_QUOTED_END
    CHUNK_LINE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF

cdef enum:
    CHUNK_LINE_MAX = 4096       # size, extensions: an endless line is an attack
    NAMED_MAX = 64              # fields that one Connection may name
    LENGTH_DIGITS_MAX = 18      # below 2^63, with leading zeros counted apart

# The codings of IANA's registry; of them only chunked is ours to undo.
cdef enum coding_t:
    CODING_NONE
    CODING_CHUNKED
    CODING_KNOWN
    CODING_UNKNOWN
    CODING_MALFORMED


cdef bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef size_t element_end(const uint8_t *text, size_t size, size_t at) noexcept nogil:
    """Where the list element at `at` ends: at its comma or at the end."""
    while at < size and text[at] != c",":
        at += 1
    return at


cdef void trim(const uint8_t *text, size_t *first, size_t *last) noexcept nogil:
    while first[0] < last[0] and is_space(text[first[0]]):
        first[0] += 1
    while last[0] > first[0] and is_space(text[last[0] - 1]):
        last[0] -= 1


cdef bint is_only(const uint8_t *text, size_t size, const char *name) noexcept nogil:
    return size <= HEAD_SIZE_MAX and is_named(text, <uint16_t>size, name)


cdef int length_of(const uint8_t *text, size_t size, uint64_t *length) noexcept nogil:
    """A Content-Length: digits and nothing else."""
    cdef size_t i
    cdef size_t zeros = 0
    cdef uint64_t value = 0
    if size == 0:
        return -1
    while zeros < size and text[zeros] == c"0":
        zeros += 1
    if size - zeros > LENGTH_DIGITS_MAX:
        return -1
    for i in range(zeros, size):
        if not c"0" <= text[i] <= c"9":
            return -1
        value = value * 10 + (text[i] - c"0")
    length[0] = value
    return 0


cdef coding_t coding_of(const uint8_t *text, size_t size) noexcept nogil:
    cdef uint16_t n = <uint16_t>size
    cdef size_t i
    if size == 0:
        return CODING_MALFORMED
    for i in range(size):
        if not 0x20 < text[i] < 0x7F:
            return CODING_MALFORMED
    if is_named(text, n, b"chunked"):
        return CODING_CHUNKED
    if (is_named(text, n, b"gzip") or is_named(text, n, b"deflate")
            or is_named(text, n, b"compress") or is_named(text, n, b"identity")
            or is_named(text, n, b"x-gzip") or is_named(text, n, b"x-compress")):
        return CODING_KNOWN
    return CODING_UNKNOWN


cdef int add_codings(const uint8_t *text, size_t size, coding_t *last,
                     bint *is_foreign) noexcept nogil:
    """Read one Transfer-Encoding line; `last` is the final coding of the lines before."""
    cdef size_t at = 0
    cdef size_t first, end
    while True:
        first = at
        at = element_end(text, size, at)
        end = at
        trim(text, &first, &end)
        if last[0] == CODING_CHUNKED:
            return -REFUSE_FRAMING      # nothing may follow it, not even itself
        last[0] = coding_of(text + first, end - first)
        if last[0] == CODING_MALFORMED:
            return -REFUSE_FRAMING
        if last[0] == CODING_UNKNOWN:
            return -REFUSE_CODING
        if last[0] != CODING_CHUNKED:
            is_foreign[0] = True
        if at >= size:
            return 0
        at += 1


cdef int read_framing(const head_t *head, const uint8_t *data, body_t *body) noexcept nogil:
    """BODY_CHUNKED, BODY_LENGTH or BODY_NONE by the fields alone."""
    cdef uint16_t i
    cdef const field_t *field
    cdef uint64_t length = 0
    cdef bint has_length = False
    cdef bint is_foreign = False
    cdef coding_t last = CODING_NONE
    cdef int code
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_CONTENT_LENGTH:
            if length_of(data + field.value.at, field.value.size, &length) < 0:
                return -REFUSE_FRAMING
            if has_length and length != body.remaining:
                return -REFUSE_FRAMING
            has_length = True
            body.remaining = length
        elif field.kind == FIELD_TRANSFER_ENCODING:
            code = add_codings(data + field.value.at, field.value.size, &last, &is_foreign)
            if code < 0:
                return code
    if last == CODING_NONE:
        body.kind = BODY_LENGTH if has_length else BODY_NONE
        return 0
    # HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
    if has_length or last != CODING_CHUNKED or head.minor == 0:
        return -REFUSE_FRAMING
    body.kind = BODY_CHUNKED
    body.remaining = 0
    return -REFUSE_CODING if is_foreign else 0


cdef void body_init(body_t *body) noexcept nogil:
    body.remaining = 0
    body.kind = BODY_NONE
    body.state = CHUNK_SIZE_FIRST
    body.line_size = 0
    body.size = body.size_max = 0
    body.is_too_long = body.is_bare = False


cdef int request_framing(const head_t *head, const uint8_t *data, body_t *body) noexcept nogil:
    cdef int code
    body_init(body)
    code = read_framing(head, data, body)
    if code == 0 and body.kind == BODY_LENGTH and body.remaining == 0:
        body.kind = BODY_NONE
    return code


cdef int response_framing(const head_t *head, const uint8_t *data, bint is_bodiless,
                          body_t *body) noexcept nogil:
    body_init(body)
    if read_framing(head, data, body) < 0:
        return -REFUSE_UPSTREAM
    if is_bodiless or head.status < 200 or head.status == 204 or head.status == 304:
        body.kind = BODY_NONE
    elif body.kind == BODY_NONE:
        body.kind = BODY_UNTIL_CLOSE
    elif body.kind == BODY_LENGTH and body.remaining == 0:
        body.kind = BODY_NONE
    return 0


cdef void hide_named(head_t *head, const uint8_t *data, const uint8_t *name,
                     uint16_t size) noexcept nogil:
    """Turn the fields of this name into hop-by-hop ones."""
    cdef uint16_t i, k
    cdef field_t *field
    cdef bint is_same
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.name.size != size or field.kind not in (FIELD_OTHER, FIELD_UNDERSCORE):
            continue
        is_same = True
        for k in range(size):
            if (data[field.name.at + k] | 0x20) != (name[k] | 0x20):
                is_same = False
                break
        if is_same:
            field.kind = FIELD_HOP


cdef int read_connection(head_t *head, const uint8_t *data, const field_t *field,
                         options_t *options, int *named) noexcept nogil:
    cdef const uint8_t *text = data + field.value.at
    cdef size_t size = field.value.size
    cdef size_t at = 0
    cdef size_t first, last
    while at < size:
        first = at
        at = element_end(text, size, at)
        last = at
        trim(text, &first, &last)
        at += 1
        if first == last:
            continue
        if is_only(text + first, last - first, b"close"):
            options.is_close = True
        elif is_only(text + first, last - first, b"keep-alive"):
            options.is_keep_alive = True
        elif is_only(text + first, last - first, b"upgrade"):
            options.is_upgrade = True
        else:
            named[0] += 1
            if named[0] > NAMED_MAX:
                return -REFUSE_FIELD
            hide_named(head, data, text + first, <uint16_t>(last - first))
    return 0


cdef bint has_trailers(const uint8_t *text, size_t size) noexcept nogil:
    """Whether TE has the element `trailers`."""
    cdef size_t at = 0
    cdef size_t first, last
    while at < size:
        first = at
        at = element_end(text, size, at)
        last = at
        trim(text, &first, &last)
        if is_only(text + first, last - first, b"trailers"):
            return True
        at += 1
    return False


cdef int connection_options(head_t *head, const uint8_t *data, options_t *options) noexcept nogil:
    cdef uint16_t i
    cdef const field_t *field
    cdef int named = 0
    cdef int code
    options.is_close = options.is_keep_alive = False
    options.is_upgrade = options.takes_trailers = False
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_CONNECTION:
            code = read_connection(head, data, field, options, &named)
            if code < 0:
                return code
        elif field.kind == FIELD_TE and has_trailers(data + field.value.at, field.value.size):
            options.takes_trailers = True
    return 0


cdef int body_take(body_t *self, uint8_t *data, size_t size, size_t *used,
                   size_t *produced) noexcept nogil:
    cdef size_t n
    if self.kind == BODY_CHUNKED:
        return take_chunks(self, data, size, used, produced)
    n = size
    if self.kind == BODY_NONE:
        n = 0
    elif self.kind == BODY_LENGTH:
        if n > self.remaining:
            n = <size_t>self.remaining
        self.remaining -= n
    used[0] = produced[0] = n
    if self.kind == BODY_UNTIL_CLOSE:
        return BODY_MORE
    return BODY_DONE if self.remaining == 0 else BODY_MORE


cdef int take_chunks(body_t *self, uint8_t *data, size_t size, size_t *used,
                     size_t *produced) noexcept nogil:
    cdef size_t i = 0
    cdef size_t out = 0
    cdef size_t n
    cdef int code = BODY_MORE
    while i < size and code == BODY_MORE:
        if self.state == CHUNK_DATA:
            n = size - i
            if n > self.remaining:
                n = <size_t>self.remaining
            if out != i:
                memmove(data + out, data + i, n)
            self.remaining -= n
            out += n
            i += n
            if self.remaining == 0:
                self.state = CHUNK_DATA_CR
        else:
            code = chunk_byte(self, data[i])
            i += 1
    used[0] = i
    produced[0] = out
    return code


cdef int chunk_byte(body_t *self, uint8_t byte) noexcept nogil:
    """One byte outside of a chunk's data: BODY_MORE, BODY_TRAILERS, or -REFUSE_CHUNK and
    -REFUSE_BODY_SIZE."""
    if self.state == CHUNK_DATA_CR:
        self.state = CHUNK_DATA_LF
        return BODY_MORE if byte == c"\r" else -REFUSE_CHUNK
    if self.state == CHUNK_DATA_LF:
        self.state = CHUNK_SIZE_FIRST
        self.line_size = 0
        return BODY_MORE if byte == c"\n" else -REFUSE_CHUNK
    self.line_size += 1
    if self.line_size > CHUNK_LINE_MAX:
        return -REFUSE_CHUNK
    if self.state == CHUNK_LINE_LF:
        if byte != c"\n":
            return -REFUSE_CHUNK
        if self.remaining == 0:
            return BODY_TRAILERS
        self.size += self.remaining
        if self.size_max and self.size > self.size_max:
            self.is_too_long = True
            return -REFUSE_BODY_SIZE
        self.state = CHUNK_DATA
        return BODY_MORE
    if self.state <= CHUNK_SIZE:
        return chunk_size_byte(self, byte)
    return chunk_extension_byte(self, byte)


cdef int chunk_size_byte(body_t *self, uint8_t byte) noexcept nogil:
    cdef uint8_t digit
    if c"0" <= byte <= c"9":
        digit = byte - c"0"
    elif c"a" <= (byte | 0x20) <= c"f":
        digit = (byte | 0x20) - c"a" + 10
    elif self.state == CHUNK_SIZE and byte == c"\r":
        self.state = CHUNK_LINE_LF
        return BODY_MORE
    elif self.state == CHUNK_SIZE and byte == c";":
        self.state = CHUNK_EXTENSION
        return BODY_MORE
    else:
        return -REFUSE_CHUNK
    if self.state == CHUNK_SIZE_FIRST:
        self.remaining = 0
        self.state = CHUNK_SIZE
    if self.remaining > UINT64_MAX >> 5:    # the top bit stays free
        return -REFUSE_CHUNK
    self.remaining = self.remaining << 4 | digit
    return BODY_MORE


cdef bint is_token_byte(uint8_t byte) noexcept nogil:
    """RFC 9110, 5.6.2."""
    if c"0" <= byte <= c"9" or c"a" <= (byte | 0x20) <= c"z":
        return True
    return byte in (c"!", c"#", c"$", c"%", c"&", c"'", c"*", c"+", c"-", c".", c"^", c"_", c"`",
                    c"|", c"~")


cdef int chunk_extension_byte(body_t *self, uint8_t byte) noexcept nogil:
    """Extensions are checked (RFC 9112, 7.1.1, without its optional white space) and dropped."""
    cdef uint8_t state = self.state
    if state == CHUNK_QUOTED:
        if byte == c'"':
            self.state = CHUNK_QUOTED_END
        elif byte == c"\\":
            self.state = CHUNK_QUOTED_PAIR
        elif byte != c"\t" and (byte < 0x20 or byte == 0x7F):
            return -REFUSE_CHUNK
    elif state == CHUNK_QUOTED_PAIR:
        self.state = CHUNK_QUOTED
        if byte != c"\t" and (byte < 0x20 or byte == 0x7F):
            return -REFUSE_CHUNK
    elif is_token_byte(byte) and state != CHUNK_QUOTED_END:
        if state == CHUNK_EXTENSION:
            self.state = CHUNK_EXTENSION_NAME
        elif state == CHUNK_EXTENSION_IS:
            self.state = CHUNK_EXTENSION_VALUE
    elif state == CHUNK_EXTENSION_IS:
        self.state = CHUNK_QUOTED
        if byte != c'"':
            return -REFUSE_CHUNK
    elif state == CHUNK_EXTENSION:
        return -REFUSE_CHUNK
    elif byte == c"\r":
        self.state = CHUNK_LINE_LF
    elif byte == c";":
        self.state = CHUNK_EXTENSION
    elif byte == c"=" and state == CHUNK_EXTENSION_NAME:
        self.state = CHUNK_EXTENSION_IS
    else:
        return -REFUSE_CHUNK
    return BODY_MORE
