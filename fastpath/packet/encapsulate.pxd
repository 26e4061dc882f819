"""`dsr` across subnets: a packet whole inside another one (RFC 2003, RFC 2473, RFC 4213).

The packet inside stays as it is, its TTL too: the tunnel is one hop of the way to its destination
and the receiver takes it out itself. The outer header has a TTL of its own, the inner one's
traffic class with its ECN bits (RFC 6040, normal mode), and for IPv4 neither an id nor DF.
"""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.parse cimport packet_t


cdef enum:
    ENCAPSULATION_SIZE_MAX = 40     # headroom before a frame that is enough for each


cdef inline uint32_t encapsulation_size(const rewrite_t *rewrite) noexcept nogil:
    """Of the outer header, in bytes."""
    return 40 if rewrite.v6 else 20


# Put the outer header in: the frame then begins encapsulation_size() bytes earlier, where there is
# headroom, and ends at packet.end. WRITTEN, or UNWRITTEN_SIZE and it is as it was. What is inside
# has a finished checksum (rewrite_finish_checksum) and is not merged (segment.pxd): nobody sees to
# that later on.
cdef int encapsulate(
    uint8_t *frame, const packet_t *packet, const rewrite_t *rewrite
) noexcept nogil

# Make the outer source of that flow one that the flow chooses, so that a backend whose card hashes
# addresses only spreads flows over its queues: 172.16/16 or 100::/64 (discard-only, RFC 6666) with
# the source port XOR the last bytes of the source, as Katran has it. `v6` is set.
cdef void encapsulation_spread_source(
    rewrite_t *rewrite, const flow_key_t *key
) noexcept nogil
