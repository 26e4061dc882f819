"""A merged packet taken apart again (GRO, UDP_GRO): for ways that have no room for it whole.

The kernel takes apart what the tap sends on, but not what has an outer header by then. Pieces are
those that tcp_gso_segment makes: sequence numbers and ids go on, FIN and PSH are the last one's,
CWR is the first one's (RFC 3168, 6.1.2). A merged packet has an unfinished checksum or none that
counts, so each piece gets its own from scratch; UDP without one stays so.
"""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.packet.parse cimport packet_t


# How many there are; `segment_size`: data of each but the last (gso_size), not 0. Of PARSE_FLOW and
# no fragment.
cdef inline uint32_t segment_count(
    const packet_t *packet, uint32_t segment_size
) noexcept nogil:
    cdef uint32_t size = packet.end - packet.payload
    return max(<uint32_t>1, (size + segment_size - 1) // segment_size)


# Write the one of that number, from 0, as a frame of its own; its size. `out` has room for
# packet.payload + segment_size bytes. The packet is parsed anew before it is used further.
cdef uint32_t segment_write(
    const uint8_t *frame,
    const packet_t *packet,
    uint32_t segment_size,
    uint32_t number,
    uint8_t *out,
) noexcept nogil
