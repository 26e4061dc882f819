"""What a router between here and a backend says about a packet with an outer header of ours."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_BAD, FP_OK
from fastpath.packet.checksum cimport checksum_add, checksum_fold, checksum_pseudo
from fastpath.packet.headers cimport (
    ICMP6_TOO_BIG, ICMP_FRAGMENTATION_NEEDED, ICMP_MTU, ICMP_SIZE, ICMP_UNREACHABLE, PROTO_ICMP6,
    PROTO_TCP, PROTO_UDP, PROTO_V4, PROTO_V6, V4_DESTINATION, V4_FRAGMENT, V4_OFFSET_MASK,
    V4_PROTOCOL, V4_SIZE, V4_SOURCE, V6_DESTINATION, V6_NEXT, V6_SIZE, V6_SOURCE, load_be16,
    load_be32, map_v4,
)
from fastpath.packet.parse cimport FRAGMENT_NONE, MTU_MIN_V4, MTU_MIN_V6


cdef uint32_t _mtu(const uint8_t *icmp, bint v6) noexcept nogil:
    """What a whole "too big" says, if any path is so narrow; 0: something else."""
    cdef uint32_t mtu
    if v6:
        mtu = load_be32(icmp + ICMP_MTU)
        return mtu if icmp[0] == ICMP6_TOO_BIG and MTU_MIN_V6 <= mtu <= 65535 else 0
    mtu = load_be16(icmp + ICMP_MTU + 2)
    if icmp[0] != ICMP_UNREACHABLE or icmp[1] != ICMP_FRAGMENTATION_NEEDED or mtu < MTU_MIN_V4:
        return 0
    return mtu


cdef bint _is_whole(const uint8_t *frame, const packet_t *packet) noexcept nogil:
    """Whether the message's checksum says so."""
    cdef uint32_t size = packet.end - packet.l4
    cdef uint64_t sum = 0
    if packet.v6:
        sum = checksum_pseudo(frame + packet.l3 + V6_SOURCE, 32, size, PROTO_ICMP6)
    return checksum_fold(checksum_add(sum, frame + packet.l4, size)) == 0xffff


cdef uint32_t _ip(
    const uint8_t *header, uint32_t size, bint v6, uint8_t *source, uint8_t *destination,
    uint8_t *protocol,
) noexcept nogil:
    """Read a quoted header without extensions. Its size; 0: it is none, or not of a beginning."""
    cdef uint32_t own_size
    if v6:
        if size < V6_SIZE or header[0] >> 4 != 6:
            return 0
        memcpy(source, header + V6_SOURCE, 16)
        memcpy(destination, header + V6_DESTINATION, 16)
        protocol[0] = header[V6_NEXT]
        return V6_SIZE
    if size < V4_SIZE or header[0] >> 4 != 4:
        return 0
    own_size = <uint32_t>(header[0] & 15) * 4
    if own_size < V4_SIZE or own_size > size:
        return 0
    if load_be16(header + V4_FRAGMENT) & V4_OFFSET_MASK:
        return 0
    map_v4(source, header + V4_SOURCE)
    map_v4(destination, header + V4_DESTINATION)
    protocol[0] = header[V4_PROTOCOL]
    return own_size


cdef int tunnel_error_read(
    tunnel_error_t *self, const uint8_t *frame, const packet_t *packet
) noexcept nogil:
    cdef uint32_t at = packet.l4
    cdef uint32_t size
    cdef uint8_t carried = 0
    memset(self, 0, sizeof(tunnel_error_t))
    if packet.fragment != FRAGMENT_NONE or packet.end - at < ICMP_SIZE:
        return FP_BAD
    self.mtu = <uint16_t>_mtu(frame + at, packet.v6)
    if self.mtu == 0 or not _is_whole(frame, packet):
        return FP_BAD
    at += ICMP_SIZE
    size = _ip(frame + at, packet.end - at, packet.v6, self.source, self.destination, &carried)
    if (
        size == 0
        or memcmp(self.source, packet.key.destination, 16) != 0
        or (carried != PROTO_V4 and carried != PROTO_V6)
    ):
        return FP_BAD
    at += size
    size = _ip(
        frame + at, packet.end - at, carried == PROTO_V6, self.key.source, self.key.destination,
        &self.key.protocol,
    )
    at += size
    if (
        size == 0
        or packet.end - at < 4
        or (self.key.protocol != PROTO_TCP and self.key.protocol != PROTO_UDP)
    ):
        return FP_BAD
    memcpy(&self.key.source_port, frame + at, 2)
    memcpy(&self.key.destination_port, frame + at + 2, 2)
    return FP_OK
