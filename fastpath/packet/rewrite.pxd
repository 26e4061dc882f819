"""A packet on its way to where its flow goes, changed in place: MACs (dsr), addresses (nat).

Either takes one from the TTL or hop limit (RFC 1812, 5.3.1; RFC 8200, 3), so a loop ends. What a
checksum is off by before it is off by afterwards: nothing that was damaged becomes valid.
"""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.parse cimport packet_t


# What became of a packet.
cdef enum:
    WRITTEN = 0
    UNWRITTEN_EXPIRED = 1       # its TTL ends here: see answer_expired
    UNWRITTEN_FAMILY = 2        # nat between IPv4 and IPv6
    UNWRITTEN_SIZE = 3          # with an outer header longer than a packet can be
    UNWRITTEN_COUNT = 4


# Fill in what NAT needs beside the new addresses and ports, which are set: deltas and `v6`, for
# packets with that key.
cdef void rewrite_nat_init(rewrite_t *rewrite, const flow_key_t *key) noexcept nogil

# Change the frame by `rewrite`, of which `how` is REWRITE_MAC or REWRITE_NAT, and which is that of
# packets with packet.key (of a later fragment: of its flow). WRITTEN, or it is as it was. An ICMP
# error is changed inside too (RFC 5508, 4.2), and then comes from rewrite.source: routers between
# us and the other side are not its receiver's to see. `is_partial`: the TCP or UDP checksum is
# only that of the pseudo-header, for a network card to finish (CHECKSUM_PARTIAL).
cdef int rewrite_packet(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite, bint is_partial
) noexcept nogil

# Finish such a checksum; of PARSE_FLOW and no fragment.
cdef void rewrite_finish_checksum(uint8_t *frame, const packet_t *packet) noexcept nogil


cdef inline bint rewrite_fits(
    const packet_t *packet, const rewrite_t *rewrite, uint32_t segment_size
) noexcept nogil:
    """Whether it is within rewrite.mtu. `segment_size`: what each of the packets that were merged
    to this one carries behind the TCP or UDP header (gso_size); 0: it is one.
    """
    cdef uint32_t size = packet.end - packet.l3
    if segment_size > 0 and packet.payload > 0:
        size = min(size, packet.payload - packet.l3 + segment_size)
    return size <= rewrite.mtu
