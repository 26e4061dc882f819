"""Canonical hosts and paths, each in one pass over a table of characters."""

from libc.stdint cimport int32_t, uint8_t, uint16_t

cdef enum:
    PATH_PLAIN = 1              # stands for itself: RFC 3986, 3.3, pchar
    PATH_UNRESERVED = 2         # RFC 3986, 2.3: the same with and without escape
    PATH_ESCAPE = 4             # visible, but not allowed in a path: is encoded
    HOST_NAME = 8               # in a host's label
    HOST_LITERAL = 16           # between the brackets of an IPv6 literal
    NO_DIGIT = 255
    PORT_MAX = 65535

cdef uint8_t CHARS[256]
cdef uint8_t DIGITS[256]        # the value of a hex digit, else NO_DIGIT


def _fill_tables():
    """Fill the tables of character classes, once at import."""
    for byte in range(256):
        text = chr(byte)
        kind = 0
        if text.isascii() and (text.isalnum() or text in "-._~"):
            kind |= PATH_PLAIN | PATH_UNRESERVED
        elif text in ":@!$&'()*+,;=":
            kind |= PATH_PLAIN
        elif 0x20 < byte < 0x7F and text not in "/%?#":
            kind |= PATH_ESCAPE
        if text.isascii() and (text.isalnum() or text in "-_"):
            kind |= HOST_NAME
        if text in "0123456789abcdefABCDEF:.":
            kind |= HOST_LITERAL
        CHARS[byte] = kind
        DIGITS[byte] = int(text, 16) if text in "0123456789abcdefABCDEF" else NO_DIGIT


_fill_tables()


cdef int escape_of(const uint8_t *text, size_t size) noexcept nogil:
    """The byte that the escape at `text` stands for; -1 when it is none or NUL."""
    cdef uint8_t high, low
    if size < 3:
        return -1
    high = DIGITS[text[1]]
    low = DIGITS[text[2]]
    if high == NO_DIGIT or low == NO_DIGIT or (high | low) == 0:
        return -1
    return high << 4 | low


cdef size_t put_escape(uint8_t *out, int byte) noexcept nogil:
    cdef const uint8_t *digits = <const uint8_t *>b"0123456789ABCDEF"
    out[0] = c"%"
    out[1] = digits[byte >> 4]
    out[2] = digits[byte & 15]
    return 3


cdef int put_element(const uint8_t *text, size_t size, uint8_t *out, size_t room, uint8_t rules,
                     size_t *used) noexcept nogil:
    """Copy one element up to the next slash; its size in `text`, or a negative code."""
    cdef size_t i = 0
    cdef size_t n = 0
    cdef int byte
    while i < size and text[i] != c"/":
        if n + 3 > room:
            return -2
        if CHARS[text[i]] & PATH_PLAIN:
            out[n] = text[i]
            n += 1
            i += 1
        elif text[i] == c"%":
            byte = escape_of(text + i, size - i)
            if byte < 0 or (rules & PATH_REFUSES_SLASH and (byte == c"/" or byte == c"\\")):
                return -1
            if CHARS[byte] & PATH_UNRESERVED:
                out[n] = <uint8_t>byte
                n += 1
            else:
                n += put_escape(out + n, byte)
            i += 3
        elif rules & PATH_REFUSES_SLASH and text[i] == c"\\":
            return -1
        elif CHARS[text[i]] & PATH_ESCAPE:
            n += put_escape(out + n, text[i])
            i += 1
        else:
            return -1
    used[0] = n
    return <int>i


cdef int path_canonical(const uint8_t *path, size_t size, uint8_t *out, size_t room,
                        uint8_t rules) noexcept nogil:
    cdef size_t i = 0
    cdef size_t n = 0               # out[0:n] ends where the next element begins, after a slash
    cdef size_t used = 0
    cdef int32_t taken
    if size == 0 or path[0] != c"/":
        return -1
    if room < 1:
        return -2
    out[0] = c"/"
    n = 1
    i = 1
    while i < size:
        taken = put_element(path + i, size - i, out + n, room - n, rules, &used)
        if taken < 0:
            return taken
        i += taken
        if used == 2 and out[n] == c"." and out[n + 1] == c".":
            if n == 1:
                return -1
            n -= 1
            while out[n - 1] != c"/":
                n -= 1
        elif not (used == 0 and not rules & PATH_KEEPS_SLASHES or used == 1 and out[n] == c"."):
            n += used
            if i < size:
                if n >= room:
                    return -2
                out[n] = c"/"
                n += 1
        i += 1                      # the slash that ended the element
    return <int>n


cdef int port_of(const uint8_t *text, size_t size) noexcept nogil:
    """`:` and one to five digits; -1 when it is anything else."""
    cdef int port = 0
    cdef size_t i
    if not 2 <= size <= 6 or text[0] != c":":
        return -1
    for i in range(1, size):
        if not c"0" <= text[i] <= c"9":
            return -1
        port = port * 10 + text[i] - c"0"
    return port if 1 <= port <= PORT_MAX else -1


cdef int name_size(const uint8_t *host, size_t size) noexcept nogil:
    """How many bytes of a host are its name: labels with one dot between, none at the ends."""
    cdef size_t i
    cdef uint8_t before = c"."
    for i in range(size):
        if host[i] == c":":
            size = i
            break
        if host[i] == c".":
            if before == c".":
                return -1
        elif not CHARS[host[i]] & HOST_NAME:
            return -1
        before = host[i]
    return <int>size


cdef int literal_size(const uint8_t *host, size_t size) noexcept nogil:
    """How many bytes of a host are an IPv6 literal with its brackets."""
    cdef size_t i = 1
    while i < size and CHARS[host[i]] & HOST_LITERAL:
        i += 1
    if i == size or host[i] != c"]" or i == 1:
        return -1
    return <int>i + 1


cdef int host_canonical(const uint8_t *host, size_t size, uint8_t *out,
                        uint16_t *port) noexcept nogil:
    cdef int n, number
    cdef int i
    port[0] = 0
    if size == 0 or size > HOST_SIZE_MAX:
        return -1
    n = literal_size(host, size) if host[0] == c"[" else name_size(host, size)
    if n <= 0:
        return -1
    if <size_t>n < size:
        number = port_of(host + n, size - n)
        if number < 0:
            return -1
        port[0] = <uint16_t>number
    if host[n - 1] == c".":
        n -= 1
    for i in range(n):
        out[i] = host[i] | 0x20 if c"A" <= host[i] <= c"Z" else host[i]
    return n
