"""`dsr` across subnets: a packet whole inside another one."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove, memset

from fastpath.packet.checksum cimport checksum_add, checksum_fold
from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.headers cimport (
    ETHER_V4, ETHER_V6, MAC_SIZE, PROTO_V4, PROTO_V6, TTL, V4_CHECKSUM, V4_DESTINATION, V4_LENGTH,
    V4_PROTOCOL, V4_SIZE, V4_SOURCE, V4_TOS, V4_TTL, V6_DESTINATION, V6_HOP_LIMIT, V6_LENGTH,
    V6_NEXT, V6_SOURCE, load_be16, store16, store_be16,
)
from fastpath.packet.parse cimport packet_t, packet_size
from fastpath.packet.rewrite cimport UNWRITTEN_SIZE, WRITTEN


cdef void _outer_v4(
    uint8_t *header, uint32_t inner_size, uint8_t traffic_class, uint8_t protocol,
    const rewrite_t *rewrite,
) noexcept nogil:
    memset(header, 0, V4_SIZE)
    header[0] = 0x45
    header[V4_TOS] = traffic_class
    store_be16(header + V4_LENGTH, <uint16_t>(V4_SIZE + inner_size))
    header[V4_TTL] = TTL
    header[V4_PROTOCOL] = protocol
    memcpy(header + V4_SOURCE, rewrite.source + 12, 4)
    memcpy(header + V4_DESTINATION, rewrite.destination + 12, 4)
    store16(header + V4_CHECKSUM, <uint16_t>~checksum_fold(checksum_add(0, header, V4_SIZE)))


cdef void _outer_v6(
    uint8_t *header, uint32_t inner_size, uint8_t traffic_class, uint8_t protocol,
    const rewrite_t *rewrite,
) noexcept nogil:
    store_be16(header, <uint16_t>(0x6000 | <uint16_t>traffic_class << 4))
    memset(header + 2, 0, 2)    # no flow label
    store_be16(header + V6_LENGTH, <uint16_t>inner_size)
    header[V6_NEXT] = protocol
    header[V6_HOP_LIMIT] = TTL
    memcpy(header + V6_SOURCE, rewrite.source, 16)
    memcpy(header + V6_DESTINATION, rewrite.destination, 16)


cdef int encapsulate(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite
) noexcept nogil:
    cdef uint32_t inner_size = packet_size(packet)
    cdef uint32_t added = encapsulation_size(rewrite)
    cdef uint8_t *inner = frame + packet.l3
    cdef uint8_t *outer = inner - added
    cdef uint8_t protocol = PROTO_V6 if packet.v6 else PROTO_V4
    cdef uint8_t traffic_class = inner[V4_TOS]
    if packet.v6:
        traffic_class = <uint8_t>(load_be16(inner) >> 4)
    if inner_size + (0 if rewrite.v6 else V4_SIZE) > 65535:
        return UNWRITTEN_SIZE
    memmove(frame - added, frame, packet.l3)
    frame -= added
    memcpy(frame, rewrite.destination_mac, MAC_SIZE)
    memcpy(frame + MAC_SIZE, rewrite.source_mac, MAC_SIZE)
    store_be16(outer - 2, ETHER_V6 if rewrite.v6 else ETHER_V4)
    if rewrite.v6:
        _outer_v6(outer, inner_size, traffic_class, protocol, rewrite)
    else:
        _outer_v4(outer, inner_size, traffic_class, protocol, rewrite)
    return WRITTEN


cdef void encapsulation_spread_source(
    rewrite_t *rewrite, const flow_key_t *key
) noexcept nogil:
    cdef const uint8_t *source = key.source + 12
    cdef const uint8_t *port = <const uint8_t *>&key.source_port
    memset(rewrite.source, 0, 16)
    if rewrite.v6:
        rewrite.source[0] = 1
        rewrite.source[12] = source[0] ^ port[0]
        rewrite.source[13] = source[1] ^ port[1]
        memcpy(rewrite.source + 14, source + 2, 2)
    else:
        memset(rewrite.source + 10, 0xff, 2)
        rewrite.source[12] = 172
        rewrite.source[13] = 16
        rewrite.source[14] = source[2] ^ port[1]
        rewrite.source[15] = source[3] ^ port[0]
