"""A packet on its way to where its flow goes, changed in place: MACs (dsr), addresses (nat)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport fp_assert
from fastpath.packet.checksum cimport (
    checksum_add, checksum_change, checksum_fold, checksum_update, checksum_update_udp,
)
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, REWRITE_NAT, flow_key_t, rewrite_t
from fastpath.packet.headers cimport (
    ICMP_CHECKSUM, MAC_SIZE, PROTO_TCP, TCP_CHECKSUM, UDP_CHECKSUM, V4_CHECKSUM, V4_SOURCE, V4_TTL,
    V6_HOP_LIMIT, V6_SOURCE, is_mapped, load16, store16,
)
from fastpath.packet.parse cimport FRAGMENT_LATER, PARSE_ICMP_ERROR


cdef void rewrite_nat_init(rewrite_t *rewrite, const flow_key_t *key) noexcept nogil:
    cdef uint64_t sum = 0
    sum = checksum_change(sum, key.source, rewrite.source, 16)
    sum = checksum_change(sum, key.destination, rewrite.destination, 16)
    rewrite.how = REWRITE_NAT
    rewrite.v6 = not is_mapped(rewrite.source)
    rewrite.ip_delta = checksum_fold(sum)
    sum += <uint16_t>~key.source_port
    sum += <uint16_t>~key.destination_port
    sum += <uint64_t>rewrite.source_port + rewrite.destination_port
    rewrite.l4_delta = checksum_fold(sum)


cdef inline void _take_ttl(uint8_t *header, bint v6) noexcept nogil:
    """One less; it shares a word of the IPv4 header with the protocol."""
    cdef uint16_t old
    if v6:
        header[V6_HOP_LIMIT] -= 1
        return
    old = load16(header + V4_TTL)
    header[V4_TTL] -= 1
    store16(header + V4_CHECKSUM, checksum_update(
        load16(header + V4_CHECKSUM),
        checksum_fold(<uint64_t><uint16_t>~old + load16(header + V4_TTL)),
    ))


cdef inline uint32_t _checksum_at(uint8_t protocol) noexcept nogil:
    """Its offset in the header of TCP or UDP."""
    return TCP_CHECKSUM if protocol == PROTO_TCP else UDP_CHECKSUM


cdef inline uint16_t _updated(uint8_t protocol, uint16_t checksum, uint16_t delta) noexcept nogil:
    """The checksum of TCP or UDP."""
    if protocol == PROTO_TCP:
        return checksum_update(checksum, delta)
    return checksum_update_udp(checksum, delta)


cdef void _nat(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite, bint is_partial
) noexcept nogil:
    cdef uint8_t *header = frame + packet.l3
    cdef uint8_t *l4 = frame + packet.l4
    cdef uint8_t *checksum
    if packet.v6:
        memcpy(header + V6_SOURCE, rewrite.source, 16)
        memcpy(header + V6_SOURCE + 16, rewrite.destination, 16)
    else:
        memcpy(header + V4_SOURCE, rewrite.source + 12, 4)
        memcpy(header + V4_SOURCE + 4, rewrite.destination + 12, 4)
        checksum = header + V4_CHECKSUM
        store16(checksum, checksum_update(load16(checksum), rewrite.ip_delta))
    if packet.fragment == FRAGMENT_LATER:
        return
    store16(l4, rewrite.source_port)
    store16(l4 + 2, rewrite.destination_port)
    checksum = l4 + _checksum_at(packet.protocol)
    if is_partial:              # the sum of the pseudo-header, not its complement
        store16(checksum, checksum_fold(<uint64_t>load16(checksum) + rewrite.ip_delta))
    else:
        store16(checksum, _updated(packet.protocol, load16(checksum), rewrite.l4_delta))


cdef uint64_t _put(uint64_t sum, uint8_t *at, const void *new, size_t size) noexcept nogil:
    """Write over what is there; `sum` and what a checksum over it changes by."""
    sum = checksum_change(sum, at, <const uint8_t *>new, size)
    memcpy(at, new, size)
    return sum


cdef uint64_t _put_addresses(
    uint8_t *header, bint v6, const uint8_t *source, const uint8_t *destination
) noexcept nogil:
    """Those of an IP header, and the checksum of IPv4; what a pseudo-header's sum changes by."""
    cdef uint64_t change = 0
    cdef uint8_t *checksum = header + V4_CHECKSUM
    if v6:
        change = _put(change, header + V6_SOURCE, source, 16)
        change = _put(change, header + V6_SOURCE + 16, destination, 16)
    else:
        change = _put(change, header + V4_SOURCE, source + 12, 4)
        change = _put(change, header + V4_SOURCE + 4, destination + 12, 4)
        store16(checksum, checksum_update(load16(checksum), checksum_fold(change)))
    return checksum_fold(change)


cdef void _nat_error(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite
) noexcept nogil:
    """The quote went the other way: where the error goes is its source."""
    cdef uint8_t *icmp = frame + packet.l4
    cdef uint8_t *l4 = frame + packet.quoted_l4
    cdef uint32_t at = _checksum_at(packet.key.protocol)
    cdef uint64_t outer, quoted, ports, change
    cdef uint16_t word
    outer = _put_addresses(
        frame + packet.l3, packet.v6, rewrite.source, rewrite.destination
    )
    quoted = _put_addresses(
        frame + packet.quoted_l3, packet.v6, rewrite.destination, rewrite.source
    )
    ports = _put(0, l4, &rewrite.destination_port, 2)
    ports = _put(ports, l4 + 2, &rewrite.source_port, 2)
    # ICMPv6 has a pseudo-header. What IPv4 addresses change, their header's checksum undoes.
    change = ports + outer + quoted if packet.v6 else ports
    if packet.quoted_l4 + at + 2 <= packet.quoted_end:
        word = _updated(packet.key.protocol, load16(l4 + at), checksum_fold(quoted + ports))
        change = _put(change, l4 + at, &word, 2)
    word = checksum_update(load16(icmp + ICMP_CHECKSUM), checksum_fold(change))
    store16(icmp + ICMP_CHECKSUM, word)


cdef int rewrite_packet(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite, bint is_partial
) noexcept nogil:
    fp_assert(rewrite.how != REWRITE_ENCAPSULATE)
    if packet.ttl <= 1:
        return UNWRITTEN_EXPIRED
    if rewrite.how == REWRITE_NAT:
        if rewrite.v6 != packet.v6:
            return UNWRITTEN_FAMILY
        if packet.verdict == PARSE_ICMP_ERROR:
            _nat_error(frame, packet, rewrite)
        else:
            _nat(frame, packet, rewrite, is_partial)
    memcpy(frame, rewrite.destination_mac, MAC_SIZE)
    memcpy(frame + MAC_SIZE, rewrite.source_mac, MAC_SIZE)
    _take_ttl(frame + packet.l3, packet.v6)
    return WRITTEN


cdef void rewrite_finish_checksum(uint8_t *frame, const packet_t *packet) noexcept nogil:
    cdef uint8_t *checksum = frame + packet.l4 + _checksum_at(packet.protocol)
    cdef uint16_t word = <uint16_t>~checksum_fold(
        checksum_add(0, frame + packet.l4, packet.end - packet.l4)
    )
    if word == 0 and packet.protocol != PROTO_TCP:
        word = 0xffff
    store16(checksum, word)
