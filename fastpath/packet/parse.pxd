"""A frame understood: which flow its packet is of, and where its headers are.

Never past the end of the frame, whatever its fields say. What the verdict does not mention is as
it was received: a TCP or UDP checksum is the receiver's to check.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.packet.flow cimport flow_key_t


# What a frame is.
cdef enum:
    # What may be forwarded or answered.
    PARSE_FLOW = 0              # TCP or UDP with its ports; perhaps a datagram's first fragment
    PARSE_FRAGMENT = 1          # a later fragment of TCP or UDP: no ports
    PARSE_ICMP_ERROR = 2        # about a TCP or UDP packet; `key`: see packet_t
    PARSE_ECHO = 3              # an echo request, whole
    # What is for the stack.
    PARSE_NOT_IP = 4            # ARP, a third VLAN tag, …
    PARSE_OTHER = 5             # another protocol; a fragment of one
    PARSE_ICMP = 6              # other ICMP and ICMPv6: echo replies, NDP, …
    PARSE_HIDDEN = 7            # ESP, or no next header
    # What nobody should carry.
    PARSE_TRUNCATED = 8         # it ends before its headers or its length do
    PARSE_LENGTH = 9            # a length that contradicts another one
    PARSE_CHECKSUM = 10         # of the IPv4 header
    PARSE_EXTENSIONS = 11       # more than MAX_EXTENSIONS, or not in their place
    PARSE_SOURCE = 12           # from a group, loopback or nobody; ::ffff:a.b.c.d on the wire
    PARSE_DESTINATION = 13      # to such, or to a group's MAC
    PARSE_LAND = 14             # its source is its destination
    PARSE_ROUTED = 15           # its sender says which way it takes (RFC 5095, RFC 7126)
    PARSE_OVERLAP = 16          # a fragment that begins in the header of TCP (RFC 3128)
    PARSE_QUOTE = 17            # an ICMP error whose quote tells no flow of who gets it
    PARSE_MTU = 18              # one that says that a path is narrower than any is
    PARSE_COUNT = 19


cdef enum:
    MAX_EXTENSIONS = 6          # IPv6 extension headers
    MTU_MIN_V4 = 576            # below it "too big" is an attack; 0: a router older than RFC 1191
    MTU_MIN_V6 = 1280           # RFC 8200, 5


# packet_t.fragment
cdef enum:
    FRAGMENT_NONE = 0           # a whole packet
    FRAGMENT_FIRST = 1
    FRAGMENT_LATER = 2


cdef struct packet_t:
    # Of a TCP or UDP packet what stands there. Of an ICMP error that of the packets that go the
    # way it goes: the quoted source is `destination`. Else, ports are 0.
    flow_key_t key
    uint32_t end                # offset behind the packet: the frame may have padding there
    uint32_t fragment_id        # of a fragment
    uint16_t l3                 # offset of the IP header
    uint16_t l4                 # of what follows it and its extensions
    uint16_t payload            # of what follows TCP's or UDP's header; PARSE_FLOW
    # Of an ICMP error; else 0.
    uint16_t quoted_l3          # the IP header that it quotes
    uint16_t quoted_l4          # at least QUOTED_L4_SIZE bytes of it are there
    uint32_t quoted_end
    uint8_t verdict             # PARSE_*
    uint8_t v6
    uint8_t protocol            # at `l4`
    uint8_t ttl                 # or hop limit
    uint8_t tcp_flags
    uint8_t fragment            # FRAGMENT_*
    # What tells datagrams of one id apart: IPv4 the protocol; IPv6 nothing, 0 (RFC 8200, 4.5).
    uint8_t fragment_protocol


# Understand frame[:size], an Ethernet frame without its check sequence; PARSE_*. `packet` is set
# as far as it goes; only the first four verdicts give all of it a meaning.
cdef int packet_parse(const uint8_t *frame, uint32_t size, packet_t *packet) noexcept nogil


cdef inline uint32_t packet_size(const packet_t *packet) noexcept nogil:
    """Of the IP packet, in bytes."""
    return packet.end - packet.l3
