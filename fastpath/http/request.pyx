"""What a complete request head means (RFC 9112, 3: request targets and Host)."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memcmp

from fastpath.http.framing cimport BODY_NONE, connection_options, is_only, request_framing
from fastpath.http.http1 cimport (
    FIELD_HOST, FIELD_UPGRADE, METHOD_CONNECT, METHOD_GET, METHOD_OPTIONS, METHOD_TRACE,
    REFUSE_HOST, REFUSE_METHOD, REFUSE_PATH, REFUSE_TARGET, REFUSE_TARGET_SIZE, TARGET_SIZE_MAX,
    field_t, is_named,
)
from fastpath.http.path cimport HOST_SIZE_MAX, host_canonical, path_canonical

cdef enum:
    PORT_HTTP = 80


cdef int request_read(request_t *self, head_t *head, const uint8_t *data,
                      uint8_t rules) noexcept nogil:
    cdef int code
    cdef span_t rest
    self.is_asterisk = self.is_websocket = self.is_rewritten = False
    self.is_trusted = False
    self.id_size = 0
    self.new_host.size = self.lines.size = self.target_lines.size = 0
    code = request_framing(head, data, &self.body)
    if code < 0:
        return code
    code = connection_options(head, data, &self.options)
    if code < 0:
        return code
    if head.method == METHOD_CONNECT or head.method == METHOD_TRACE:
        return -REFUSE_METHOD
    code = find_host(self, head, data)
    if code < 0:
        return code
    rest = head.target
    code = read_authority(self, head, data, &rest)
    if code < 0:
        return code
    if self.host_field.size == 0 and head.minor > 0:
        return -REFUSE_HOST
    code = read_path(self, head, data, rest, rules)
    if code < 0:
        return code
    self.is_websocket = asks_websocket(self, head, data)
    return 0


cdef int find_host(request_t *self, const head_t *head, const uint8_t *data) noexcept nogil:
    """Exactly one Host; HTTP/1.0 may do without."""
    cdef uint16_t i
    cdef uint16_t port = 0
    cdef uint16_t count = 0
    cdef int size = 0
    self.host_field.at = self.host_field.size = 0
    self.host_size = 0
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_HOST:
            count += 1
            self.host_field = head.fields[i].value
    if count == 0:
        return 0 if head.minor == 0 else -REFUSE_HOST
    if count == 1:
        size = host_canonical(data + self.host_field.at, self.host_field.size, self.host, &port)
    if size <= 0:
        return -REFUSE_HOST
    self.host_size = <uint16_t>size
    return 0


cdef int read_authority(request_t *self, const head_t *head, const uint8_t *data,
                        span_t *rest) noexcept nogil:
    """Take `http://authority` off an absolute-form target; it must say what Host says."""
    cdef const uint8_t *target = data + rest.at
    cdef uint16_t i = 7
    cdef uint16_t port = 0
    cdef uint16_t host_port = 0
    cdef uint8_t host[HOST_SIZE_MAX]
    cdef int size
    if rest.size < 7 or not is_named(target, 7, b"http://"):
        return 0
    while i < rest.size and target[i] != c"/" and target[i] != c"?":
        i += 1
    size = host_canonical(target + 7, i - 7, host, &port)
    if size <= 0:
        return -REFUSE_TARGET
    if self.host_field.size == 0:
        self.host_field.at = rest.at + 7
        self.host_field.size = i - 7
        self.host_size = <uint16_t>host_canonical(target + 7, i - 7, self.host, &host_port)
    elif host_canonical(data + self.host_field.at, self.host_field.size, self.host, &host_port) < 0:
        return -REFUSE_HOST
    if self.host_size != size or memcmp(host, self.host, size) != 0:
        return -REFUSE_HOST
    if (port or PORT_HTTP) != (host_port or PORT_HTTP):
        return -REFUSE_HOST
    rest.at += i
    rest.size -= i
    if head.method == METHOD_OPTIONS and rest.size == 0:
        self.is_asterisk = True         # RFC 9112, 3.2.4
    return 0


cdef int read_path(request_t *self, const head_t *head, const uint8_t *data, span_t rest,
                   uint8_t rules) noexcept nogil:
    """Canonicalise what is left of the target after its authority."""
    cdef const uint8_t *target = data + rest.at
    cdef const uint8_t *mark
    cdef uint16_t path_size = rest.size
    cdef int size
    if rest.size == 1 and target[0] == c"*" and rest.at == head.target.at:
        if head.method != METHOD_OPTIONS:
            return -REFUSE_TARGET
        self.is_asterisk = True
        rest.size = path_size = 0
    mark = <const uint8_t *>memchr(target, c"?", rest.size) if rest.size else NULL
    if mark != NULL:
        path_size = <uint16_t>(mark - target)
    self.query.at = rest.at + path_size
    self.query.size = rest.size - path_size
    if path_size == 0:
        if rest.at == head.target.at and not self.is_asterisk:
            return -REFUSE_TARGET       # `?a` alone
        self.path[0] = c"/"             # after an authority, empty means `/` (RFC 9110, 4.2.3)
        self.path_size = 1
        return 0
    if target[0] != c"/":
        return -REFUSE_TARGET
    size = path_canonical(target, path_size, self.path, PATH_ROOM, rules)
    if size < 0:
        return -REFUSE_PATH if size == -1 else -REFUSE_TARGET_SIZE
    # What is forwarded may be longer than what was sent, but not longer than what may be sent.
    if size + self.query.size > TARGET_SIZE_MAX:
        return -REFUSE_TARGET_SIZE
    self.path_size = <uint16_t>size
    return 0


cdef bint asks_websocket(const request_t *self, const head_t *head,
                         const uint8_t *data) noexcept nogil:
    """RFC 6455, 4.1; any other Upgrade is dropped, as every server may ignore it."""
    cdef uint16_t i
    cdef const field_t *field
    if (not self.options.is_upgrade or head.method != METHOD_GET or head.minor == 0
            or self.body.kind != BODY_NONE):
        return False
    for i in range(head.fields_count):
        field = &head.fields[i]
        if field.kind == FIELD_UPGRADE:
            return is_only(data + field.value.at, field.value.size, b"websocket")
    return False


cdef void request_asked(asked_t *asked, const request_t *self, const head_t *head,
                        const uint8_t *data) noexcept nogil:
    asked.host = <const uint8_t *>self.host
    asked.host_size = self.host_size
    asked.path = <const uint8_t *>self.path
    asked.path_size = self.path_size
    asked.head = head
    asked.data = data
    asked.query = self.query
