"""HTTP/1.1 heads: bytes in one contiguous buffer -> offsets into it (RFC 9112, strict).

The scanner is incremental and looks at every byte once: feed it the same buffer again whenever it
has grown, and however the bytes arrive the outcome is the same. It copies and allocates nothing.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport strlen

cdef enum:
    HEAD_SIZE_MAX = 16384       # start line and fields with their line ends
    TARGET_SIZE_MAX = 8192
    METHOD_SIZE_MAX = 32
    FIELDS_MAX = 100

# What head_scan returns beside a negative refusal_t.
cdef enum:
    HEAD_MORE = 0               # everything so far is well formed; feed more bytes
    HEAD_DONE = 1               # `pos` is the first byte after the head

# Why we answer by ourselves. Negated in return values; REFUSAL_TABLE in answers.pyx has the order.
cdef enum refusal_t:
    REFUSE_NONE = 0
    REFUSE_START_LINE           # 400: not exactly `method SP target SP HTTP/1.x`
    REFUSE_TARGET               # 400: none of the forms of RFC 9112, 3.2, or a bad byte
    REFUSE_PATH                 # 400: no canonical form (path.pxd)
    REFUSE_FIELD                # 400: a malformed field line
    REFUSE_HOST                 # 400: missing, repeated or malformed, or not what the target says
    REFUSE_FRAMING              # 400: Content-Length or Transfer-Encoding malformed or at odds
    REFUSE_CHUNK                # 400: malformed chunk or trailer
    REFUSE_METHOD               # 405: CONNECT, TRACE
    REFUSE_HEADER_TIMEOUT       # 408: the head took too long
    REFUSE_BODY_TIMEOUT         # 408: the body stood still
    REFUSE_TARGET_SIZE          # 414
    REFUSE_HEAD_SIZE            # 431: more bytes or fields than allowed
    REFUSE_NO_BACKEND           # 500: the route has no service
    REFUSE_CODING               # 501: a transfer coding that we do not speak
    REFUSE_METHOD_SIZE          # 501: a method longer than any we know
    REFUSE_NO_ROUTE             # 404
    REFUSE_UNAVAILABLE          # 503: no backend is up
    REFUSE_QUEUE_FULL           # 503: too many wait for the service already
    REFUSE_QUEUE_TIMEOUT        # 503: waited for the service in vain
    REFUSE_BUSY                 # 503: no memory set aside, descriptor or local port is left
    REFUSE_CONNECT              # 502: no backend could be reached
    REFUSE_UPSTREAM             # 502: the backend's answer is malformed or was cut short
    REFUSE_TIMEOUT              # 504: the backend's answer, or the whole exchange, took too long
    REFUSE_VERSION              # 505
    REFUSE_SOURCE               # 403: `allow_sources` or `deny_sources`
    REFUSE_RATE                 # 429
    REFUSE_IN_FLIGHT            # 503: as many requests of the route as may be are under way
    REFUSE_BODY_SIZE            # 413
    REFUSE_CREDENTIALS          # 401: `basic_auth`
    REFUSE_CHECKS_BUSY          # 503: too many wait for theirs to be checked, or for too long
    REFUSE_CHECKS_RATE          # 429: the client has had too many checked
    REFUSE_RESPOND              # no refusal: what the filter says
    REFUSE_REDIRECT             # likewise
    REFUSE_PREFLIGHT            # likewise
    REFUSALS

cdef enum head_kind_t:
    HEAD_REQUEST
    HEAD_RESPONSE
    HEAD_TRAILERS               # fields only: what follows the last chunk

# What a field means to a proxy; FIELD_OTHER is passed on as it is.
cdef enum field_kind_t:
    FIELD_OTHER = 0
    FIELD_HOST
    FIELD_CONTENT_LENGTH
    FIELD_TRANSFER_ENCODING
    FIELD_CONNECTION
    FIELD_UPGRADE
    FIELD_TE
    FIELD_TRAILER
    FIELD_EXPECT
    FIELD_HOP                   # hop-by-hop whatever Connection says, or named by it
    FIELD_MANAGED               # X-Forwarded-* and its kin: only we may set them
    FIELD_UNDERSCORE            # a name with an underscore, which CGI-like backends take for a dash

cdef enum method_t:
    METHOD_OTHER = 0
    METHOD_GET
    METHOD_HEAD
    METHOD_POST
    METHOD_PUT
    METHOD_DELETE
    METHOD_OPTIONS
    METHOD_PATCH
    METHOD_CONNECT
    METHOD_TRACE
    METHODS

cdef struct span_t:
    uint16_t at                 # offset into the scanned buffer
    uint16_t size               # bytes

cdef struct field_t:
    span_t name
    span_t value                # without the white space around it
    uint8_t kind                # field_kind_t

cdef struct head_t:
    uint16_t pos                # first byte not looked at yet
    uint16_t mark               # where the element under way began
    uint16_t fields_count
    uint16_t status             # responses: 100-599
    uint8_t kind                # head_kind_t
    uint8_t state               # scan_t of http1.pyx
    uint8_t minor               # HTTP/1.x; 1 for everything above 1
    uint8_t method              # method_t
    span_t start                # responses: the status line without its line end
    span_t method_name
    span_t target
    field_t fields[FIELDS_MAX]

cdef inline bint is_named(const uint8_t *text, uint16_t size, const char *name) noexcept nogil:
    """Compare without case; `name` is in lower case and has no bytes that differ from another
    character's by 0x20 alone, but letters and `-`."""
    cdef uint16_t i
    if size != strlen(name):
        return False
    for i in range(size):
        if (text[i] | 0x20) != <uint8_t>name[i]:
            return False
    return True

# What a field is to us: field_kind_t, but for FIELD_UNDERSCORE.
cdef uint8_t field_kind(const uint8_t *name, uint16_t size) noexcept nogil

# Begins a head; the buffer is scanned from its first byte.
cdef void head_init(head_t *self, head_kind_t kind) noexcept nogil

# Scans data[pos:size]; `size` grows from call to call. HEAD_MORE, HEAD_DONE or -refusal_t.
cdef int head_scan(head_t *self, const uint8_t *data, size_t size) noexcept nogil
