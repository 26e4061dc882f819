"""What a router between here and a backend says about a packet with an outer header of ours.

Its error is for us, who wrote that header (RFC 2003, 4; RFC 2473, 8). Only one asks for something:
the packet was too long for the way. Then, if it quotes enough of what is inside, the flow is known.
"""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.packet.flow cimport flow_key_t
from fastpath.packet.parse cimport packet_t


cdef struct tunnel_error_t:
    flow_key_t key              # of the packet inside, as it came
    uint8_t source[16]          # of the outer header
    uint8_t destination[16]
    uint16_t mtu                # longest one that may go that way, outer header included


# Understand an ICMP message that packet_parse has no flow for (PARSE_ICMP). FP_OK: it says "too
# big" of a packet around one of TCP or UDP, its checksum is right and it may be believed: the
# quoted packet came from who gets the message, and there are paths that narrow. FP_BAD: not so.
cdef int tunnel_error_read(
    tunnel_error_t *self, const uint8_t *frame, const packet_t *packet
) noexcept nogil
