"""Which server a TLS client asks for, read from its ClientHello; nothing is decrypted."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_DONE, FP_OK


cdef enum:
    RECORD_HEADER_SIZE = 5
    RECORD_HANDSHAKE = 22
    RECORD_SIZE_MAX = 16384     # RFC 8446, 5.1
    TLS_MAJOR = 3               # of every version from SSL 3.0 on
    CLIENT_HELLO = 1
    HANDSHAKE_HEADER_SIZE = 4
    RANDOM_SIZE = 32
    SESSION_ID_MAX = 32
    EXTENSION_SERVER_NAME = 0
    EXTENSION_ALPN = 16
    NAME_TYPE_HOST = 0
    LABEL_MAX = 63


# A cursor over the bytes of one handshake message, wherever the records cut it. When its status is
# no longer FP_OK nothing more is read.
cdef struct cursor_t:
    const uint8_t *data
    size_t size
    size_t at
    size_t record_left          # bytes of the record at the cursor
    size_t left                 # bytes that may be read: of the message, or what encloses it
    int status


cdef void _enter_record(cursor_t *c) noexcept nogil:
    """Pass the header of the next record."""
    cdef const uint8_t *header = c.data + c.at
    cdef size_t there = c.size - c.at
    cdef size_t size
    if (there > 0 and header[0] != RECORD_HANDSHAKE) or (there > 1 and header[1] != TLS_MAJOR):
        c.status = FP_BAD
    elif there < RECORD_HEADER_SIZE:
        c.status = FP_AGAIN
    else:
        size = <size_t>header[3] << 8 | header[4]
        if 1 <= size <= RECORD_SIZE_MAX:
            c.record_left = size
            c.at += RECORD_HEADER_SIZE
        else:
            c.status = FP_BAD


cdef void _take(cursor_t *c, uint8_t *out, size_t n) noexcept nogil:
    """Copy the next n bytes; out == NULL: pass them."""
    cdef size_t part
    if c.status != FP_OK:
        return
    if n > c.left:
        c.status = FP_BAD
        return
    c.left -= n
    while n > 0:
        if c.record_left == 0:
            _enter_record(c)
            if c.status != FP_OK:
                return
        part = min(n, c.record_left, c.size - c.at)
        if part == 0:
            c.status = FP_AGAIN
            return
        if out != NULL:
            memcpy(out, c.data + c.at, part)
            out += part
        c.at += part
        c.record_left -= part
        n -= part


cdef uint32_t _number(cursor_t *c, int n_bytes) noexcept nogil:
    """A number in network order; 0 when it is not there."""
    cdef uint8_t data[4]
    cdef uint32_t value = 0
    cdef int i
    _take(c, data, n_bytes)
    if c.status != FP_OK:
        return 0
    for i in range(n_bytes):
        value = value << 8 | data[i]
    return value


cdef void _check(cursor_t *c, bint holds) noexcept nogil:
    if c.status == FP_OK and not holds:
        c.status = FP_BAD


cdef bint _to_host_name(uint8_t *name, size_t size) noexcept nogil:
    """Make it lower case; whether it is a host name: labels, of which the last is no number.

    An IPv4 address has a number there; an IPv6 address has colons.
    """
    cdef size_t i, label_size = 0
    cdef bint is_number = True
    for i in range(size):
        if name[i] == c".":
            if label_size == 0:
                return False
            label_size = 0
            is_number = True
            continue
        if c"A" <= name[i] <= c"Z":
            name[i] |= 0x20
        if not (c"a" <= name[i] <= c"z" or c"0" <= name[i] <= c"9"
                or name[i] == c"-" or name[i] == c"_"):
            return False
        if not c"0" <= name[i] <= c"9":
            is_number = False
        label_size += 1
        if label_size > LABEL_MAX:
            return False
    return label_size > 0 and not is_number


cdef void _read_server_name(cursor_t *c, uint32_t size, sni_t *sni) noexcept nogil:
    """RFC 6066, 3: a list, of exactly one host name as nothing else was ever defined."""
    cdef uint32_t name_size
    _check(c, sni.name_size == 0 and size >= 5)
    _check(c, _number(c, 2) == size - 2)
    _check(c, _number(c, 1) == NAME_TYPE_HOST)
    name_size = _number(c, 2)
    _check(c, name_size == size - 5 and 1 <= name_size <= SNI_NAME_MAX)
    _take(c, sni.name, name_size)
    if c.status == FP_OK:
        _check(c, _to_host_name(sni.name, name_size))
        sni.name_size = <uint8_t>name_size


cdef bint _is_name_list(const uint8_t *alpn, size_t size) noexcept nogil:
    """Whether it is full of names, none of them empty."""
    cdef size_t at = 0
    while at < size and alpn[at] != 0:
        at += 1 + alpn[at]
    return size > 0 and at == size


cdef void _read_alpn(cursor_t *c, uint32_t size, sni_t *sni) noexcept nogil:
    """RFC 7301, 3.1."""
    cdef uint32_t list_size
    _check(c, size >= 2)
    list_size = _number(c, 2)
    _check(c, list_size == size - 2)
    if list_size > SNI_ALPN_MAX:
        _take(c, NULL, list_size)
        return
    _take(c, sni.alpn, list_size)
    if c.status == FP_OK:
        _check(c, _is_name_list(sni.alpn, list_size))
        sni.alpn_size = <uint8_t>list_size


cdef void _read_extensions(cursor_t *c, sni_t *sni) noexcept nogil:
    cdef uint32_t kind, size
    cdef bint has_alpn = False
    while c.status == FP_OK and c.left > 0:
        kind = _number(c, 2)
        size = _number(c, 2)
        _check(c, size <= c.left)
        if kind == EXTENSION_SERVER_NAME and c.status == FP_OK:
            _read_server_name(c, size, sni)
        elif kind == EXTENSION_ALPN and c.status == FP_OK:
            _check(c, not has_alpn)
            has_alpn = True
            _read_alpn(c, size, sni)
        else:
            _take(c, NULL, size)


cdef void _read_hello(cursor_t *c, sni_t *sni) noexcept nogil:
    """RFC 8446, 4 and 4.1.2."""
    cdef uint32_t size
    c.left = HANDSHAKE_HEADER_SIZE
    _check(c, _number(c, 1) == CLIENT_HELLO)
    size = _number(c, 3)
    _check(c, size <= SNI_SIZE_MAX - RECORD_HEADER_SIZE - HANDSHAKE_HEADER_SIZE)
    c.left = size
    _check(c, _number(c, 2) >> 8 == TLS_MAJOR)
    _take(c, NULL, RANDOM_SIZE)
    size = _number(c, 1)
    _check(c, size <= SESSION_ID_MAX)
    _take(c, NULL, size)
    size = _number(c, 2)
    _check(c, size >= 2 and size % 2 == 0)      # cipher suites
    _take(c, NULL, size)
    size = _number(c, 1)
    _check(c, size >= 1)                        # compression methods
    _take(c, NULL, size)
    if c.left > 0:                              # before TLS 1.3 there may be no extensions
        size = _number(c, 2)
        _check(c, size == c.left)
        _read_extensions(c, sni)


cdef int sni_peek(const uint8_t *data, size_t size, sni_t *sni) noexcept nogil:
    cdef cursor_t c
    memset(&c, 0, sizeof(c))
    c.data = data
    c.size = min(size, <size_t>SNI_SIZE_MAX)
    sni.name_size = 0
    sni.alpn_size = 0
    _read_hello(&c, sni)
    if c.status == FP_OK:
        return FP_DONE
    return FP_BAD if c.size == SNI_SIZE_MAX else c.status
