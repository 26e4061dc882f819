"""A merged packet taken apart again."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport fp_assert
from fastpath.packet.checksum cimport checksum_add, checksum_fold, checksum_pseudo
from fastpath.packet.headers cimport (
    PROTO_TCP, TCP_CHECKSUM, TCP_CWR, TCP_FIN, TCP_FLAGS, TCP_PSH, TCP_SEQUENCE, UDP_CHECKSUM,
    UDP_LENGTH, V4_CHECKSUM, V4_ID, V4_LENGTH, V4_SOURCE, V6_LENGTH, V6_SIZE, V6_SOURCE, load16,
    load_be16, load_be32, store16, store_be16, store_be32,
)
from fastpath.packet.parse cimport packet_t


cdef void _ip(
    uint8_t *header, const packet_t *packet, uint32_t size, uint32_t number
) noexcept nogil:
    """Length, id and checksum; `size`: of the packet."""
    if packet.v6:
        store_be16(header + V6_LENGTH, <uint16_t>(size - V6_SIZE))
        return
    store_be16(header + V4_LENGTH, <uint16_t>size)
    store_be16(header + V4_ID, <uint16_t>(load_be16(header + V4_ID) + number))
    store16(header + V4_CHECKSUM, 0)
    store16(header + V4_CHECKSUM, <uint16_t>~checksum_fold(
        checksum_add(0, header, packet.l4 - packet.l3)
    ))


cdef uint16_t _checksum(
    const uint8_t *header, const packet_t *packet, const uint8_t *l4, uint32_t size
) noexcept nogil:
    """Of TCP or UDP, whose own field is 0; `size`: with the data."""
    cdef uint64_t sum
    if packet.v6:
        sum = checksum_pseudo(header + V6_SOURCE, 32, size, packet.protocol)
    else:
        sum = checksum_pseudo(header + V4_SOURCE, 8, size, packet.protocol)
    return <uint16_t>~checksum_fold(checksum_add(sum, l4, size))


cdef void _tcp(uint8_t *l4, uint32_t offset, bint is_last) noexcept nogil:
    store_be32(l4 + TCP_SEQUENCE, load_be32(l4 + TCP_SEQUENCE) + offset)
    if offset != 0:
        l4[TCP_FLAGS] &= <uint8_t>~TCP_CWR
    if not is_last:
        l4[TCP_FLAGS] &= <uint8_t>~(TCP_FIN | TCP_PSH)


cdef uint32_t segment_write(
    const uint8_t *frame,
    const packet_t *packet,
    uint32_t segment_size,
    uint32_t number,
    uint8_t *out,
) noexcept nogil:
    cdef uint32_t offset = number * segment_size
    cdef uint32_t left = packet.end - packet.payload - offset
    cdef uint32_t size = min(left, segment_size)
    cdef uint8_t *header = out + packet.l3
    cdef uint8_t *l4 = out + packet.l4
    cdef uint32_t l4_size = packet.payload - packet.l4 + size
    cdef uint16_t checksum
    fp_assert(offset <= packet.end - packet.payload)
    memcpy(out, frame, packet.payload)
    memcpy(out + packet.payload, frame + packet.payload + offset, size)
    _ip(header, packet, packet.payload - packet.l3 + size, number)
    if packet.protocol == PROTO_TCP:
        _tcp(l4, offset, left == size)
        store16(l4 + TCP_CHECKSUM, 0)
        store16(l4 + TCP_CHECKSUM, _checksum(header, packet, l4, l4_size))
        return packet.payload + size
    store_be16(l4 + UDP_LENGTH, <uint16_t>l4_size)
    if load16(l4 + UDP_CHECKSUM) != 0:
        store16(l4 + UDP_CHECKSUM, 0)
        checksum = _checksum(header, packet, l4, l4_size)
        store16(l4 + UDP_CHECKSUM, checksum if checksum != 0 else 0xffff)
    return packet.payload + size
