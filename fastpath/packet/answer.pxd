"""What the forwarder itself says to a sender: an echo reply, and why a packet went no further.

An error quotes as much as keeps it within 576 bytes (ICMP; RFC 1812, 4.3.2.3) or 1280 (ICMPv6; RFC
4443, 2.4). None is about an ICMP error or a later fragment (RFC 1122, 3.2.2; a packet to a group
or from nobody has a verdict of its own). How many are sent is the caller's to limit (RFC 4443,
2.4 f).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.packet.parse cimport packet_t


cdef enum:
    # Room for an error: Ethernet with two tags, and 1280 bytes.
    ANSWER_SIZE_MAX = 22 + 1280


# Turn an echo request (PARSE_ECHO) into its reply, in place; it ends at packet.end.
cdef void answer_echo(uint8_t *frame, const packet_t *packet) noexcept nogil

# Write to `answer` the frame that says to the packet's sender that `mtu` is the longest one that
# may come (RFC 1191, 4; RFC 4443, 3.2), whether or not it has DF: it goes no further. The answer
# comes from where the packet went to. Its size; 0: this packet gets none.
cdef uint32_t answer_too_big(
    const uint8_t *frame, const packet_t *packet, uint16_t mtu, uint8_t *answer
) noexcept nogil

# The same of one whose TTL or hop limit ends here (RFC 792; RFC 4443, 3.3).
cdef uint32_t answer_expired(
    const uint8_t *frame, const packet_t *packet, uint8_t *answer
) noexcept nogil

# As answer_too_big and answer_expired, with the first 8 bytes of the ICMP message but its checksum
# as given, and quoting up to `quoted_max` bytes.
cdef uint32_t answer_error(
    const uint8_t *frame,
    const packet_t *packet,
    uint8_t kind,
    uint8_t code,
    uint32_t rest,
    uint32_t quoted_max,
    uint8_t *answer,
) noexcept nogil
