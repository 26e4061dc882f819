"""Addresses and numbers as text, strictly: what version 1 of the PROXY protocol is made of."""

from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_BAD, FP_OK, fp_assert


cdef enum:
    GROUPS = 8                  # in an IPv6 address


cdef void text_expect(cursor_t *c, const uint8_t *text, size_t size) noexcept nogil:
    cdef size_t i
    for i in range(size):
        if text_next(c) != text[i]:
            if c.status == FP_OK:
                c.status = FP_BAD
            return
        c.at += 1


cdef uint32_t text_decimal(cursor_t *c, uint32_t largest) noexcept nogil:
    cdef size_t start = c.at
    cdef uint32_t value = 0
    cdef int byte = text_next(c)
    while c"0" <= byte <= c"9":
        if value == 0 and c.at > start:
            c.status = FP_BAD
            return 0
        value = value * 10 + <uint32_t>(byte - c"0")
        if value > largest:
            c.status = FP_BAD
            return 0
        c.at += 1
        byte = text_next(c)
    if c.status == FP_OK and c.at == start:
        c.status = FP_BAD
    return value


cdef void text_v4(cursor_t *c, uint8_t *ip) noexcept nogil:
    cdef int i
    for i in range(4):
        if i > 0:
            text_expect(c, b".", 1)
        ip[i] = <uint8_t>text_decimal(c, 255)


cdef struct groups_t:           # an IPv6 address as it is read
    uint16_t values[GROUPS]     # those complete, without what `::` stands for
    int8_t n
    int8_t gap                  # how many came before `::`; -1: there is none yet
    int8_t digits               # of the group at the cursor
    uint8_t colons              # right before that group
    uint32_t value              # of that group


cdef bint _put_digit(groups_t *groups, uint32_t digit) noexcept nogil:
    """Go on with a group; whether there may be one here."""
    if groups.colons == 1 and groups.n == 0:        # begins with a single colon
        return False
    if groups.digits == 4 or groups.n + (groups.gap >= 0) == GROUPS:
        return False
    groups.value = groups.value << 4 | digit
    groups.digits += 1
    return True


cdef void _end_group(groups_t *groups) noexcept nogil:
    fp_assert(groups.n < GROUPS)
    groups.values[groups.n] = <uint16_t>groups.value
    groups.n += 1
    groups.value = 0
    groups.digits = 0
    groups.colons = 0


cdef bint _put_colon(groups_t *groups) noexcept nogil:
    """End a group, or begin or end `::`; whether there may be a colon here."""
    if groups.digits > 0:
        _end_group(groups)
        groups.colons = 1
        return groups.n + (groups.gap >= 0) < GROUPS
    if groups.colons == 0:
        groups.colons = 1
        return True                                 # the very first byte
    if groups.gap >= 0:
        return False
    groups.gap = groups.n
    groups.colons = 2
    return True


cdef bint _put_groups(const groups_t *groups, uint8_t *ip) noexcept nogil:
    """Write the 16 bytes; whether it is a whole address."""
    cdef int i, place
    if groups.colons == 1 or (groups.n != GROUPS if groups.gap < 0 else groups.n == GROUPS):
        return False
    memset(ip, 0, 2 * GROUPS)
    for i in range(groups.n):
        place = i if i < groups.gap or groups.gap < 0 else GROUPS - groups.n + i
        ip[2 * place] = <uint8_t>(groups.values[i] >> 8)
        ip[2 * place + 1] = <uint8_t>groups.values[i]
    return True


cdef inline int _hex_digit(int byte) noexcept nogil:
    """Its value, or -1."""
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte |= 0x20
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else -1


cdef void text_v6(cursor_t *c, uint8_t *ip) noexcept nogil:
    cdef groups_t groups
    cdef int byte, digit
    memset(&groups, 0, sizeof(groups))
    groups.gap = -1
    while True:
        byte = text_next(c)
        digit = _hex_digit(byte)
        if digit >= 0:
            if not _put_digit(&groups, <uint32_t>digit):
                break
        elif byte == c":":
            if not _put_colon(&groups):
                break
        else:
            if groups.digits > 0 and byte == c".":
                if groups.gap != 0 or groups.n != 1 or groups.values[0] != 0xffff:
                    break
                memset(ip, 0, 10)
                memset(ip + 10, 0xff, 2)
                c.at -= groups.digits
                text_v4(c, ip + 12)
                return
            if groups.digits > 0:
                _end_group(&groups)
            if c.status != FP_OK or _put_groups(&groups, ip):
                return
            break
        c.at += 1
    c.status = FP_BAD


cdef size_t put_text(uint8_t *out, const uint8_t *text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return size


cdef size_t put_decimal(uint8_t *out, uint32_t value) noexcept nogil:
    cdef uint8_t digits[10]
    cdef size_t n = 0
    cdef size_t i
    while n == 0 or value > 0:
        digits[n] = <uint8_t>(c"0" + value % 10)
        value //= 10
        n += 1
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef size_t put_v4(uint8_t *out, const uint8_t *ip) noexcept nogil:
    cdef size_t n = 0
    cdef int i
    for i in range(4):
        if i > 0:
            n += put_text(out + n, b".", 1)
        n += put_decimal(out + n, ip[i])
    return n


cdef inline uint32_t _group(const uint8_t *ip, int place) noexcept nogil:
    return <uint32_t>ip[2 * place] << 8 | ip[2 * place + 1]


cdef size_t _put_hex(uint8_t *out, uint32_t value) noexcept nogil:
    cdef const uint8_t *digits = <const uint8_t *>b"0123456789abcdef"
    cdef size_t n = 0
    cdef int shift
    for shift in range(12, -1, -4):
        if n > 0 or shift == 0 or value >> shift > 0:
            out[n] = digits[(value >> shift) & 15]
            n += 1
    return n


cdef int _zeros_at(const uint8_t *ip, int first) noexcept nogil:
    """How many groups are zero from this one on."""
    cdef int n = 0
    while first + n < GROUPS and _group(ip, first + n) == 0:
        n += 1
    return n


cdef size_t put_v6(uint8_t *out, const uint8_t *ip) noexcept nogil:
    cdef size_t n = 0
    cdef int i, gap = GROUPS, gap_size = 1          # one group alone is written as 0
    for i in range(GROUPS):
        if _zeros_at(ip, i) > gap_size:
            gap = i
            gap_size = _zeros_at(ip, i)
    i = 0
    while i < GROUPS:
        if i == gap:
            n += put_text(out + n, b"::", 2)
            i += gap_size
            continue
        if i > 0 and i != gap + gap_size:
            n += put_text(out + n, b":", 1)
        n += _put_hex(out + n, _group(ip, i))
        i += 1
    return n
