"""PROXY protocol headers, versions 1 (a line of text) and 2 (binary), read and written."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_OK, fp_assert
from fastpath.hashing.crc32c cimport crc32c
from fastpath.address cimport ADDRESS_SIZE, address_put
from fastpath.proxy.proxy_text cimport (
    cursor_t, put_decimal, put_text, put_v4, put_v6, text_decimal, text_expect, text_next, text_v4,
    text_v6,
)
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, ntohs


cdef enum:
    CR = 0x0d
    LF = 0x0a
    V2_SIGNATURE_SIZE = 12
    V2_FIXED_SIZE = 16          # before the addresses
    V2_LOCAL = 0x20             # version and command
    V2_PROXY = 0x21
    V2_INET = 1                 # families
    V2_INET6 = 2
    V2_UNIX = 3
    V2_STREAM = 1               # protocols
    V2_DGRAM = 2
    TLV_FIXED_SIZE = 3
    TLV_CRC32C = 3


cdef void _read_address(cursor_t *c, sockaddr_any_t *address) noexcept nogil:
    if address.any.sa_family == AF_INET:
        text_v4(c, <uint8_t *>&address.v4.sin_addr)
    else:
        text_v6(c, <uint8_t *>&address.v6.sin6_addr)
    text_expect(c, b" ", 1)


cdef uint16_t _read_port(cursor_t *c, const uint8_t *ending, size_t ending_size) noexcept nogil:
    cdef uint32_t port = text_decimal(c, 65535)
    text_expect(c, ending, ending_size)
    return htons(<uint16_t>port)


cdef void _set_ports(
    proxy_header_t *header, uint16_t source, uint16_t destination
) noexcept nogil:
    """Both in network order."""
    if header.source.any.sa_family == AF_INET:
        header.source.v4.sin_port = source
        header.destination.v4.sin_port = destination
    else:
        header.source.v6.sin6_port = source
        header.destination.v6.sin6_port = destination


cdef void _read_unknown(cursor_t *c, proxy_header_t *header) noexcept nogil:
    """`UNKNOWN`, and whatever stands between a space and the line's end."""
    cdef int byte
    header.local = True
    text_expect(c, b"UNKNOWN", 7)
    if text_next(c) == c" ":
        while c.at < PROXY_V1_SIZE_MAX - 2:
            byte = text_next(c)
            if byte < 0 or byte == CR or byte == LF:
                break
            c.at += 1
    text_expect(c, b"\r\n", 2)


cdef int _read_v1(const uint8_t *data, size_t size, proxy_header_t *header) noexcept nogil:
    """2.1: a line."""
    cdef cursor_t c
    cdef uint16_t source, destination
    c.data = data
    c.size = size
    c.at = 0
    c.status = FP_OK
    header.version = 1
    text_expect(&c, b"PROXY ", 6)
    if text_next(&c) == c"U":
        _read_unknown(&c, header)
    else:
        text_expect(&c, b"TCP", 3)
        header.source.any.sa_family = AF_INET if text_next(&c) == c"4" else AF_INET6
        header.destination.any.sa_family = header.source.any.sa_family
        text_expect(&c, b"4 " if header.source.any.sa_family == AF_INET else b"6 ", 2)
        _read_address(&c, &header.source)
        _read_address(&c, &header.destination)
        source = _read_port(&c, b" ", 1)
        destination = _read_port(&c, b"\r\n", 2)
        _set_ports(header, source, destination)
    return <int>c.at if c.status == FP_OK else c.status


cdef inline uint32_t _u16(const uint8_t *data) noexcept nogil:
    return <uint32_t>data[0] << 8 | data[1]


cdef inline uint32_t _u32(const uint8_t *data) noexcept nogil:
    return _u16(data) << 16 | _u16(data + 2)


cdef int _read_fixed(const uint8_t *data, size_t size) noexcept nogil:
    """What comes before the addresses, as far as it is there: FP_OK or FP_BAD."""
    cdef const uint8_t *signature = <const uint8_t *>b"\r\n\r\n\x00\r\nQUIT\n"
    if memcmp(data, signature, min(size, <size_t>V2_SIGNATURE_SIZE)) != 0:
        return FP_BAD
    if size > 12 and data[12] != V2_PROXY and data[12] != V2_LOCAL:
        return FP_BAD
    # Of LOCAL the family is ignored.
    if size > 13 and data[12] == V2_PROXY and (
        data[13] >> 4 > V2_UNIX or (data[13] & 15) > V2_DGRAM
    ):
        return FP_BAD
    if size > 14 and V2_FIXED_SIZE + (<uint32_t>data[14] << 8) > PROXY_V2_SIZE_MAX:
        return FP_BAD
    if size > 15 and V2_FIXED_SIZE + _u16(data + 14) > PROXY_V2_SIZE_MAX:
        return FP_BAD
    return FP_OK


cdef uint32_t _addresses_size(const uint8_t *data) noexcept nogil:
    """Bytes of the addresses; 0: nothing tells, so what there is cannot be looked at."""
    cdef uint8_t family = data[13] >> 4
    if data[12] == V2_LOCAL or (data[13] & 15) == 0:
        return 0
    if family == V2_INET:
        return 12
    if family == V2_INET6:
        return 36
    return 216 if family == V2_UNIX else 0


cdef bint _checksum_holds(const uint8_t *data, size_t size, size_t at) noexcept nogil:
    """Whether the one at `at` is that of the whole header with zeros in its place (2.2.3)."""
    cdef uint32_t zeros = 0
    cdef uint32_t crc = crc32c(0, data, at)
    crc = crc32c(crc, <const uint8_t *>&zeros, 4)
    crc = crc32c(crc, data + at + 4, size - at - 4)
    return crc == _u32(data + at)


cdef int _read_tlvs(
    const uint8_t *data, size_t size, size_t at, size_t end
) noexcept nogil:
    """Walk over those in data[at:end], of which data[:size] is there: FP_OK, FP_AGAIN, FP_BAD."""
    cdef size_t checksum_at = 0
    cdef size_t value_size
    while at < end:
        if end - at < TLV_FIXED_SIZE:
            return FP_BAD
        if size < at + TLV_FIXED_SIZE:
            return FP_AGAIN
        value_size = _u16(data + at + 1)
        if value_size > end - at - TLV_FIXED_SIZE:
            return FP_BAD
        if data[at] == TLV_CRC32C:
            if value_size != 4 or checksum_at != 0:
                return FP_BAD
            checksum_at = at + TLV_FIXED_SIZE
        at += TLV_FIXED_SIZE + value_size
    if size < end:
        return FP_AGAIN
    if checksum_at != 0 and not _checksum_holds(data, end, checksum_at):
        return FP_BAD
    return FP_OK


cdef void _take_addresses(const uint8_t *data, proxy_header_t *header) noexcept nogil:
    """Those of a whole header, where they are of use."""
    cdef const uint8_t *at = data + V2_FIXED_SIZE
    cdef uint16_t ports[2]
    if data[12] != V2_PROXY or (data[13] & 15) != V2_STREAM:
        header.local = True
    elif data[13] >> 4 == V2_INET:
        header.source.v4.sin_family = AF_INET
        header.destination.v4.sin_family = AF_INET
        memcpy(&header.source.v4.sin_addr, at, 4)
        memcpy(&header.destination.v4.sin_addr, at + 4, 4)
        memcpy(ports, at + 8, 4)
        _set_ports(header, ports[0], ports[1])
    elif data[13] >> 4 == V2_INET6:
        header.source.v6.sin6_family = AF_INET6
        header.destination.v6.sin6_family = AF_INET6
        memcpy(&header.source.v6.sin6_addr, at, 16)
        memcpy(&header.destination.v6.sin6_addr, at + 16, 16)
        memcpy(ports, at + 32, 4)
        _set_ports(header, ports[0], ports[1])
    else:
        header.local = True


cdef int _read_v2(const uint8_t *data, size_t size, proxy_header_t *header) noexcept nogil:
    """2.2: binary."""
    cdef uint32_t end, addresses_size
    cdef int result = _read_fixed(data, size)
    if result != FP_OK:
        return result
    if size < V2_FIXED_SIZE:
        return FP_AGAIN
    end = V2_FIXED_SIZE + _u16(data + 14)
    addresses_size = _addresses_size(data)
    if addresses_size > 0:
        if V2_FIXED_SIZE + addresses_size > end:
            return FP_BAD
        result = _read_tlvs(data, size, V2_FIXED_SIZE + addresses_size, end)
        if result != FP_OK:
            return result
    if size < end:
        return FP_AGAIN
    header.version = 2
    _take_addresses(data, header)
    return <int>end


cdef int proxy_header_read(
    const uint8_t *data, size_t size, proxy_header_t *header
) noexcept nogil:
    memset(header, 0, sizeof(proxy_header_t))
    if size == 0:
        return FP_AGAIN
    if data[0] == CR:
        return _read_v2(data, size, header)
    return _read_v1(data, size, header)


cdef inline uint16_t _port(const sockaddr_any_t *address) noexcept nogil:
    """In network order."""
    if address.any.sa_family == AF_INET:
        return address.v4.sin_port
    return address.v6.sin6_port


cdef inline bint _is_known(const sockaddr_any_t *address) noexcept nogil:
    return address != NULL and (
        address.any.sa_family == AF_INET or address.any.sa_family == AF_INET6
    )


cdef size_t _write_v1(
    uint8_t *data, const sockaddr_any_t *source, const sockaddr_any_t *destination
) noexcept nogil:
    cdef uint8_t ip[ADDRESS_SIZE]
    cdef size_t n
    if source.any.sa_family == AF_INET and destination.any.sa_family == AF_INET:
        n = put_text(data, b"PROXY TCP4 ", 11)
        n += put_v4(data + n, <const uint8_t *>&source.v4.sin_addr)
        n += put_text(data + n, b" ", 1)
        n += put_v4(data + n, <const uint8_t *>&destination.v4.sin_addr)
    else:
        n = put_text(data, b"PROXY TCP6 ", 11)
        address_put(ip, source)
        n += put_v6(data + n, ip)
        n += put_text(data + n, b" ", 1)
        address_put(ip, destination)
        n += put_v6(data + n, ip)
    n += put_text(data + n, b" ", 1)
    n += put_decimal(data + n, ntohs(_port(source)))
    n += put_text(data + n, b" ", 1)
    n += put_decimal(data + n, ntohs(_port(destination)))
    n += put_text(data + n, b"\r\n", 2)
    return n


cdef size_t _write_v2(
    uint8_t *data, const sockaddr_any_t *source, const sockaddr_any_t *destination
) noexcept nogil:
    cdef uint16_t ports[2]
    cdef size_t n
    ports[0] = _port(source)
    ports[1] = _port(destination)
    if source.any.sa_family == AF_INET and destination.any.sa_family == AF_INET:
        n = put_text(data, b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", V2_FIXED_SIZE)
        memcpy(data + n, &source.v4.sin_addr, 4)
        memcpy(data + n + 4, &destination.v4.sin_addr, 4)
        n += 8
    else:
        n = put_text(data, b"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24", V2_FIXED_SIZE)
        address_put(data + n, source)
        address_put(data + n + ADDRESS_SIZE, destination)
        n += 2 * ADDRESS_SIZE
    memcpy(data + n, ports, 4)
    return n + 4


cdef size_t proxy_header_write(
    uint8_t *data,
    uint8_t version,
    const sockaddr_any_t *source,
    const sockaddr_any_t *destination,
) noexcept nogil:
    fp_assert(version == 1 or version == 2)
    if not _is_known(source) or not _is_known(destination):
        if version == 1:
            return put_text(data, b"PROXY UNKNOWN\r\n", 15)
        return put_text(data, b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", V2_FIXED_SIZE)
    if version == 1:
        return _write_v1(data, source, destination)
    return _write_v2(data, source, destination)
