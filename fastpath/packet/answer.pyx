"""What the forwarder itself says to a sender: an echo reply, and why a packet went no further."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.packet.checksum cimport (
    checksum_add, checksum_change, checksum_fold, checksum_pseudo, checksum_update,
)
from fastpath.packet.headers cimport (
    ICMP6_ECHO_REPLY, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG, ICMP_CHECKSUM, ICMP_ECHO_REPLY,
    ICMP_FRAGMENTATION_NEEDED, ICMP_MTU, ICMP_SIZE, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, MAC_SIZE,
    PROTO_ICMP, PROTO_ICMP6, TTL, V4_CHECKSUM, V4_DESTINATION, V4_LENGTH, V4_PROTOCOL, V4_SIZE,
    V4_SOURCE, V4_TTL, V6_DESTINATION, V6_HOP_LIMIT, V6_LENGTH, V6_NEXT, V6_SIZE, V6_SOURCE, load16,
    store16, store_be16,
)
from fastpath.packet.parse cimport PARSE_ECHO, PARSE_FLOW, packet_size, packet_t


cdef enum:
    QUOTED_MAX_V4 = 576 - 28
    QUOTED_MAX_V6 = 1280 - 48


cdef inline void _swap(uint8_t *at, uint32_t size) noexcept nogil:
    """Two neighbours of that size, up to an IPv6 address."""
    cdef uint8_t first[16]
    memcpy(first, at, size)
    memcpy(at, at + size, size)
    memcpy(at + size, first, size)


cdef void _bring_up_to_date(
    uint8_t *checksum, const uint8_t *old, const uint8_t *new
) noexcept nogil:
    """After one word of what it is over has changed."""
    cdef uint16_t delta = checksum_fold(checksum_change(0, old, new, 2))
    store16(checksum, checksum_update(load16(checksum), delta))


cdef void answer_echo(uint8_t *frame, const packet_t *packet) noexcept nogil:
    cdef uint8_t *header = frame + packet.l3
    cdef uint8_t *icmp = frame + packet.l4
    cdef uint8_t old[2]
    _swap(frame, MAC_SIZE)
    if packet.v6:
        _swap(header + V6_SOURCE, 16)
        header[V6_HOP_LIMIT] = TTL
    else:
        _swap(header + V4_SOURCE, 4)
        memcpy(old, header + V4_TTL, 2)
        header[V4_TTL] = TTL
        _bring_up_to_date(header + V4_CHECKSUM, old, header + V4_TTL)
    memcpy(old, icmp, 2)
    icmp[0] = ICMP6_ECHO_REPLY if packet.v6 else ICMP_ECHO_REPLY
    _bring_up_to_date(icmp + ICMP_CHECKSUM, old, icmp)
    # Of nothing but zeros the sum is the other zero, which equation 3 never gives.
    if load16(icmp + ICMP_CHECKSUM) == 0 and checksum_add(0, icmp, packet.end - packet.l4) == 0:
        store16(icmp + ICMP_CHECKSUM, 0xffff)


cdef void _header_v4(uint8_t *header, const uint8_t *asked, uint32_t size) noexcept nogil:
    """The reverse of that one; `size`: of what follows."""
    memset(header, 0, V4_SIZE)
    header[0] = 0x45
    store_be16(header + V4_LENGTH, <uint16_t>(V4_SIZE + size))
    header[V4_TTL] = TTL
    header[V4_PROTOCOL] = PROTO_ICMP
    memcpy(header + V4_SOURCE, asked + V4_DESTINATION, 4)
    memcpy(header + V4_DESTINATION, asked + V4_SOURCE, 4)
    store16(header + V4_CHECKSUM, <uint16_t>~checksum_fold(checksum_add(0, header, V4_SIZE)))


cdef void _header_v6(uint8_t *header, const uint8_t *asked, uint32_t size) noexcept nogil:
    memset(header, 0, V6_SIZE)
    header[0] = 0x60
    store_be16(header + V6_LENGTH, <uint16_t>size)
    header[V6_NEXT] = PROTO_ICMP6
    header[V6_HOP_LIMIT] = TTL
    memcpy(header + V6_SOURCE, asked + V6_DESTINATION, 16)
    memcpy(header + V6_DESTINATION, asked + V6_SOURCE, 16)


cdef uint32_t answer_error(
    const uint8_t *frame,
    const packet_t *packet,
    uint8_t kind,
    uint8_t code,
    uint32_t rest,
    uint32_t quoted_max,
    uint8_t *answer,
) noexcept nogil:
    cdef uint8_t *header = answer + packet.l3
    cdef uint8_t *icmp = header + (V6_SIZE if packet.v6 else V4_SIZE)
    cdef uint32_t size = ICMP_SIZE + min(packet_size(packet), quoted_max)
    cdef uint64_t sum = 0
    if packet.verdict != PARSE_FLOW and packet.verdict != PARSE_ECHO:
        return 0
    memcpy(answer, frame, packet.l3)
    _swap(answer, MAC_SIZE)
    icmp[0] = kind
    icmp[1] = code
    memset(icmp + ICMP_CHECKSUM, 0, 2)
    store_be16(icmp + ICMP_MTU, <uint16_t>(rest >> 16))
    store_be16(icmp + ICMP_MTU + 2, <uint16_t>rest)
    memcpy(icmp + ICMP_SIZE, frame + packet.l3, size - ICMP_SIZE)
    if packet.v6:
        _header_v6(header, frame + packet.l3, size)
        sum = checksum_pseudo(header + V6_SOURCE, 32, size, PROTO_ICMP6)
    else:
        _header_v4(header, frame + packet.l3, size)
    store16(icmp + ICMP_CHECKSUM, <uint16_t>~checksum_fold(checksum_add(sum, icmp, size)))
    return <uint32_t>(icmp - answer) + size


cdef uint32_t answer_too_big(
    const uint8_t *frame, const packet_t *packet, uint16_t mtu, uint8_t *answer
) noexcept nogil:
    if packet.v6:
        return answer_error(frame, packet, ICMP6_TOO_BIG, 0, mtu, QUOTED_MAX_V6, answer)
    return answer_error(
        frame, packet, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, mtu, QUOTED_MAX_V4, answer
    )


cdef uint32_t answer_expired(
    const uint8_t *frame, const packet_t *packet, uint8_t *answer
) noexcept nogil:
    if packet.v6:
        return answer_error(frame, packet, ICMP6_TIME_EXCEEDED, 0, 0, QUOTED_MAX_V6, answer)
    return answer_error(frame, packet, ICMP_TIME_EXCEEDED, 0, 0, QUOTED_MAX_V4, answer)
