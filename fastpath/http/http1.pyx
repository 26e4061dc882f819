"""The scanner: one state a syntactic element, one table lookup a byte."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp

# Where in a head the scanner stands.
cdef enum scan_t:
    SCAN_START                  # before a request line; empty lines are skipped (RFC 9112, 2.2)
    SCAN_START_LF
    SCAN_METHOD
    SCAN_TARGET
    SCAN_VERSION
    SCAN_REQUEST_CR
    SCAN_LINE_LF                # the LF of a start or field line
    SCAN_STATUS
    SCAN_REASON
    SCAN_FIELD                  # at the beginning of a line
    SCAN_NAME
    SCAN_VALUE
    SCAN_END_LF                 # the LF of the empty line that ends the head
    SCAN_ENDED

cdef extern from "scan.h" nogil:
    uint16_t scan_name_bytes(const uint8_t *data, uint16_t at, uint16_t end)
    uint16_t scan_target_bytes(const uint8_t *data, uint16_t at, uint16_t end)
    uint16_t scan_value_bytes(const uint8_t *data, uint16_t at, uint16_t end)

cdef enum:
    CHAR_TOKEN = 1              # RFC 9110, 5.6.2
    CHAR_TARGET = 2             # visible ASCII but `#`
    CHAR_TEXT = 4               # HTAB, SP, visible ASCII, obs-text
    VERSION_SIZE = 8            # "HTTP/1.1"
    STATUS_SIZE = 12            # "HTTP/1.1 200"

cdef uint8_t CHARS[256]


def _fill_chars():
    """Fill the table of character classes, once at import."""
    for byte in range(256):
        kind = 0
        if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "!#$%&'*+-.^_`|~"):
            kind |= CHAR_TOKEN
        if 0x20 < byte < 0x7F and byte != ord("#"):
            kind |= CHAR_TARGET
        if byte == 0x09 or (byte >= 0x20 and byte != 0x7F):
            kind |= CHAR_TEXT
        CHARS[byte] = kind


_fill_chars()


cdef void head_init(head_t *self, head_kind_t kind) noexcept nogil:
    self.pos = self.mark = self.fields_count = self.status = 0
    self.kind = kind
    self.minor = self.method = 0
    self.method_name.size = self.target.size = 0
    if kind == HEAD_REQUEST:
        self.state = SCAN_START
    elif kind == HEAD_RESPONSE:
        self.state = SCAN_STATUS
    else:
        self.state = SCAN_FIELD


cdef int head_scan(head_t *self, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint16_t end = <uint16_t>(size if size < HEAD_SIZE_MAX else HEAD_SIZE_MAX)
    cdef int code = HEAD_MORE
    while self.pos < end and code == HEAD_MORE:
        if self.state == SCAN_VALUE:
            code = scan_value(self, data, end)
        elif self.state == SCAN_FIELD:
            code = scan_field(self, data)
        elif self.state == SCAN_NAME:
            code = scan_name(self, data, end)
        elif self.state == SCAN_LINE_LF:
            code = scan_lf(self, data, SCAN_FIELD)
        elif self.state == SCAN_END_LF:
            code = scan_lf(self, data, SCAN_ENDED)
        elif self.kind == HEAD_REQUEST:
            code = scan_request_line(self, data, end)
        else:
            code = scan_status_line(self, data, end)
        if self.state == SCAN_ENDED:
            return HEAD_DONE
    if code == HEAD_MORE and self.pos == HEAD_SIZE_MAX:
        return -REFUSE_HEAD_SIZE
    return code


cdef int scan_lf(head_t *self, const uint8_t *data, uint8_t after) noexcept nogil:
    """The byte after a CR."""
    if data[self.pos] != c"\n":
        if self.fields_count == 0 and after == SCAN_FIELD:
            return -REFUSE_START_LINE
        return -REFUSE_FIELD
    self.pos += 1
    self.state = after
    return HEAD_MORE


cdef int scan_request_line(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    if self.state == SCAN_METHOD:
        return scan_method(self, data, end)
    if self.state == SCAN_TARGET:
        return scan_target(self, data, end)
    if self.state == SCAN_VERSION:
        return scan_version(self, data, end)
    if self.state == SCAN_REQUEST_CR:
        if data[self.pos] != c"\r":
            return -REFUSE_START_LINE
        self.pos += 1
        self.state = SCAN_LINE_LF
        return HEAD_MORE
    if self.state == SCAN_START_LF:
        if data[self.pos] != c"\n":
            return -REFUSE_START_LINE
        self.pos += 1
        self.state = SCAN_START
        return HEAD_MORE
    self.mark = self.pos
    if data[self.pos] == c"\r":
        self.pos += 1
        self.state = SCAN_START_LF
    else:
        self.state = SCAN_METHOD
    return HEAD_MORE


cdef int scan_method(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t pos = self.pos
    while pos < end and CHARS[data[pos]] & CHAR_TOKEN:
        pos += 1
    self.pos = pos
    if pos - self.mark > METHOD_SIZE_MAX:
        return -REFUSE_METHOD_SIZE
    if pos == end:
        return HEAD_MORE
    if data[pos] != c" " or pos == self.mark:
        return -REFUSE_START_LINE
    self.method_name.at = self.mark
    self.method_name.size = pos - self.mark
    self.method = method_of(data + self.mark, self.method_name.size)
    self.pos = self.mark = pos + 1
    self.state = SCAN_TARGET
    return HEAD_MORE


cdef int scan_target(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t pos = self.pos
    cdef uint16_t stop = self.mark + TARGET_SIZE_MAX + 1
    if stop > end:
        stop = end
    pos = scan_target_bytes(data, pos, stop)
    while pos < stop and CHARS[data[pos]] & CHAR_TARGET:
        pos += 1
    self.pos = pos
    if pos - self.mark > TARGET_SIZE_MAX:
        return -REFUSE_TARGET_SIZE
    if pos == stop:
        return HEAD_MORE
    if data[pos] != c" ":
        # A line that ends here has no version; anything else is a byte that no target has.
        return -REFUSE_START_LINE if data[pos] in (c"\r", c"\n") else -REFUSE_TARGET
    if pos == self.mark:
        return -REFUSE_START_LINE
    self.target.at = self.mark
    self.target.size = pos - self.mark
    self.pos = self.mark = pos + 1
    self.state = SCAN_VERSION
    return HEAD_MORE


cdef inline bint is_usual_version(const uint8_t *text, uint16_t size) noexcept nogil:
    """Whether it begins with what nearly everybody says; else it is looked at byte by byte."""
    return size >= VERSION_SIZE and memcmp(text, b"HTTP/1.1", VERSION_SIZE) == 0


cdef int scan_version(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef int code
    if is_usual_version(data + self.mark, end - self.mark):
        self.pos = self.mark + VERSION_SIZE
    while self.pos < end and self.pos - self.mark < VERSION_SIZE:
        code = check_version_byte(data, self.mark, self.pos)
        if code < 0:
            return code
        self.pos += 1
    if self.pos - self.mark < VERSION_SIZE:
        return HEAD_MORE
    if data[self.mark + 5] != c"1":
        return -REFUSE_VERSION
    self.minor = 0 if data[self.mark + 7] == c"0" else 1
    self.state = SCAN_REQUEST_CR
    return HEAD_MORE


cdef int check_version_byte(const uint8_t *data, uint16_t start, uint16_t pos) noexcept nogil:
    """`HTTP/` DIGIT `.` DIGIT, a byte at a time."""
    cdef uint16_t i = pos - start
    cdef bint is_good
    if i == 5 or i == 7:
        is_good = c"0" <= data[pos] <= c"9"
    else:
        is_good = data[pos] == (<const uint8_t *>b"HTTP/1.1")[i]
    return HEAD_MORE if is_good else -REFUSE_START_LINE


cdef int scan_status_line(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t i
    cdef bint is_good
    if self.pos < VERSION_SIZE and is_usual_version(data, end):
        self.pos = VERSION_SIZE
    while self.state == SCAN_STATUS and self.pos < end:
        i = self.pos
        if i < VERSION_SIZE:
            is_good = check_version_byte(data, 0, i) == HEAD_MORE
        elif i == VERSION_SIZE:
            is_good = data[i] == c" "
        elif i < STATUS_SIZE:
            is_good = c"0" <= data[i] <= c"9"
        else:
            is_good = data[i] == c" " or data[i] == c"\r"
            self.state = SCAN_REASON
        if not is_good:
            return -REFUSE_UPSTREAM
        if i < STATUS_SIZE:
            self.pos += 1
    if self.state == SCAN_STATUS:
        return HEAD_MORE
    return scan_reason(self, data, end)


cdef int scan_reason(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t pos = self.pos
    while pos < end and CHARS[data[pos]] & CHAR_TEXT:
        pos += 1
    self.pos = pos
    if pos == end:
        return HEAD_MORE
    if data[pos] != c"\r" or data[5] != c"1":
        return -REFUSE_UPSTREAM
    self.minor = 0 if data[7] == c"0" else 1
    self.status = ((data[9] - c"0") * 100 + (data[10] - c"0") * 10 + (data[11] - c"0"))
    if not 100 <= self.status <= 599:
        return -REFUSE_UPSTREAM
    self.start.at = 0
    self.start.size = pos
    self.pos += 1
    self.state = SCAN_LINE_LF
    return HEAD_MORE


cdef int scan_field(head_t *self, const uint8_t *data) noexcept nogil:
    """The first byte of a line: the end of the head, or a field's name."""
    if data[self.pos] == c"\r":
        self.pos += 1
        self.state = SCAN_END_LF
        return HEAD_MORE
    if self.fields_count == FIELDS_MAX:
        return -REFUSE_HEAD_SIZE
    self.mark = self.pos
    self.fields[self.fields_count].kind = FIELD_OTHER
    self.state = SCAN_NAME
    return HEAD_MORE


cdef int scan_name(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t pos = self.pos
    cdef field_t *field = &self.fields[self.fields_count]
    pos = scan_name_bytes(data, pos, end)
    while pos < end and CHARS[data[pos]] & CHAR_TOKEN:
        if data[pos] == c"_":
            field.kind = FIELD_UNDERSCORE
        pos += 1
    self.pos = pos
    if pos == end:
        return HEAD_MORE
    # White space before the colon or at the line's beginning (obs-fold) ends up here, too.
    if data[pos] != c":" or pos == self.mark:
        return -REFUSE_FIELD
    field.name.at = self.mark
    field.name.size = pos - self.mark
    self.pos = self.mark = pos + 1
    self.state = SCAN_VALUE
    return HEAD_MORE


cdef int scan_value(head_t *self, const uint8_t *data, uint16_t end) noexcept nogil:
    cdef uint16_t pos = self.pos
    cdef uint16_t first = self.mark
    cdef field_t *field = &self.fields[self.fields_count]
    cdef uint8_t kind
    pos = scan_value_bytes(data, pos, end)
    while pos < end and CHARS[data[pos]] & CHAR_TEXT:
        pos += 1
    self.pos = pos
    if pos == end:
        return HEAD_MORE
    if data[pos] != c"\r":
        return -REFUSE_FIELD
    self.pos += 1
    self.state = SCAN_LINE_LF
    while first < pos and (data[first] == c" " or data[first] == c"\t"):
        first += 1
    while pos > first and (data[pos - 1] == c" " or data[pos - 1] == c"\t"):
        pos -= 1
    field.value.at = first
    field.value.size = pos - first
    kind = field_kind(data + field.name.at, field.name.size)
    if kind != FIELD_OTHER:
        field.kind = kind
    self.fields_count += 1
    return HEAD_MORE


cdef uint8_t method_of(const uint8_t *name, uint16_t size) noexcept nogil:
    """Methods are case-sensitive (RFC 9110, 9.1)."""
    if size == 3:
        if memcmp(name, b"GET", 3) == 0:
            return METHOD_GET
        return METHOD_PUT if memcmp(name, b"PUT", 3) == 0 else METHOD_OTHER
    if size == 4:
        if memcmp(name, b"POST", 4) == 0:
            return METHOD_POST
        return METHOD_HEAD if memcmp(name, b"HEAD", 4) == 0 else METHOD_OTHER
    if size == 5:
        if memcmp(name, b"PATCH", 5) == 0:
            return METHOD_PATCH
        return METHOD_TRACE if memcmp(name, b"TRACE", 5) == 0 else METHOD_OTHER
    if size == 6:
        return METHOD_DELETE if memcmp(name, b"DELETE", 6) == 0 else METHOD_OTHER
    if size == 7:
        if memcmp(name, b"OPTIONS", 7) == 0:
            return METHOD_OPTIONS
        return METHOD_CONNECT if memcmp(name, b"CONNECT", 7) == 0 else METHOD_OTHER
    return METHOD_OTHER


cdef uint8_t field_kind(const uint8_t *name, uint16_t size) noexcept nogil:
    """What a field is to us, but for FIELD_UNDERSCORE; by length first, so that most names cost one
    comparison."""
    cdef uint8_t kind = FIELD_OTHER
    if size == 2:
        kind = FIELD_TE if is_named(name, size, b"te") else FIELD_OTHER
    elif size == 4:
        kind = FIELD_HOST if is_named(name, size, b"host") else FIELD_OTHER
    elif size == 6:
        kind = FIELD_EXPECT if is_named(name, size, b"expect") else FIELD_OTHER
    elif size == 7:
        if is_named(name, size, b"upgrade"):
            kind = FIELD_UPGRADE
        elif is_named(name, size, b"trailer"):
            kind = FIELD_TRAILER
    elif size == 9:
        if is_named(name, size, b"x-real-ip") or is_named(name, size, b"forwarded"):
            kind = FIELD_MANAGED
    elif size == 10:
        if is_named(name, size, b"connection"):
            kind = FIELD_CONNECTION
        elif is_named(name, size, b"keep-alive"):
            kind = FIELD_HOP
    elif size == 12:
        kind = FIELD_MANAGED if is_named(name, size, b"x-request-id") else FIELD_OTHER
    elif size == 14 and is_named(name, size, b"content-length"):
        kind = FIELD_CONTENT_LENGTH
    elif size == 17 and is_named(name, size, b"transfer-encoding"):
        kind = FIELD_TRANSFER_ENCODING
    if kind == FIELD_OTHER and size > 6 and is_named(name, 6, b"proxy-"):
        kind = FIELD_HOP
    elif kind == FIELD_OTHER and size > 12 and is_named(name, 12, b"x-forwarded-"):
        kind = FIELD_MANAGED
    return kind
