"""Headers on the wire: sizes, numbers, and fields that may stand at any address.

Ethernet (IEEE 802.3, 802.1Q), IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768),
ICMP (RFC 792), ICMPv6 (RFC 4443).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.sys_linux cimport htons, ntohs


cdef enum:
    MAC_SIZE = 6
    ETHER_SIZE = 14             # both MACs and the type
    TAG_SIZE = 4                # of a VLAN
    MAX_TAGS = 2
    V4_SIZE = 20                # without options
    V6_SIZE = 40
    ICMP_SIZE = 8               # before an error's quote
    UDP_SIZE = 8
    TCP_SIZE = 20               # without options
    PORTS_SIZE = 4
    QUOTED_L4_SIZE = 8          # that every ICMP error quotes

    ETHER_V4 = 0x0800
    ETHER_V6 = 0x86dd
    ETHER_VLAN = 0x8100
    ETHER_QINQ = 0x88a8         # the outer tag of two (802.1ad)

    # Protocols, and next headers.
    PROTO_HOP_BY_HOP = 0
    PROTO_ICMP = 1
    PROTO_V4 = 4
    PROTO_TCP = 6
    PROTO_UDP = 17
    PROTO_V6 = 41
    PROTO_ROUTING = 43
    PROTO_FRAGMENT = 44
    PROTO_ESP = 50
    PROTO_AH = 51
    PROTO_ICMP6 = 58
    PROTO_NONE = 59
    PROTO_OPTIONS = 60          # destination options

    # Offsets in an IPv4 header.
    V4_TOS = 1
    V4_LENGTH = 2
    V4_ID = 4
    V4_FRAGMENT = 6
    V4_TTL = 8
    V4_PROTOCOL = 9
    V4_CHECKSUM = 10
    V4_SOURCE = 12
    V4_DESTINATION = 16
    V4_MORE_FRAGMENTS = 0x2000  # in the field that begins at V4_FRAGMENT
    V4_OFFSET_MASK = 0x1fff     # in it, units of 8 bytes

    # In an IPv6 header.
    V6_LENGTH = 4
    V6_NEXT = 6
    V6_HOP_LIMIT = 7
    V6_SOURCE = 8
    V6_DESTINATION = 24

    TCP_SEQUENCE = 4
    TCP_OFFSET = 12             # its upper half: words of the header
    TCP_FLAGS = 13
    TCP_CHECKSUM = 16
    UDP_LENGTH = 4
    UDP_CHECKSUM = 6
    ICMP_CHECKSUM = 2
    ICMP_MTU = 4                # 32 bits; in ICMPv4 the lower 16 are it (RFC 1191)

    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_CWR = 0x80

    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER = 12
    ICMP_FRAGMENTATION_NEEDED = 4       # code of ICMP_UNREACHABLE
    ICMP6_UNREACHABLE = 1
    ICMP6_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAMETER = 4
    ICMP6_ECHO = 128
    ICMP6_ECHO_REPLY = 129

    TTL = 64                    # of packets that begin here


cdef inline uint16_t load16(const uint8_t *at) noexcept nogil:
    """As it is in the packet: network order."""
    cdef uint16_t word = 0
    memcpy(&word, at, sizeof(word))
    return word


cdef inline void store16(uint8_t *at, uint16_t word) noexcept nogil:
    memcpy(at, &word, sizeof(word))


cdef inline uint16_t load_be16(const uint8_t *at) noexcept nogil:
    """As a number."""
    return ntohs(load16(at))


cdef inline void store_be16(uint8_t *at, uint16_t number) noexcept nogil:
    store16(at, htons(number))


cdef inline uint32_t load_be32(const uint8_t *at) noexcept nogil:
    return <uint32_t>load_be16(at) << 16 | load_be16(at + 2)


cdef inline void store_be32(uint8_t *at, uint32_t number) noexcept nogil:
    store_be16(at, <uint16_t>(number >> 16))
    store_be16(at + 2, <uint16_t>number)


cdef inline void map_v4(uint8_t *address, const uint8_t *v4) noexcept nogil:
    """Four bytes as 16: ::ffff:a.b.c.d."""
    memset(address, 0, 10)
    memset(address + 10, 0xff, 2)
    memcpy(address + 12, v4, 4)


cdef inline bint is_mapped(const uint8_t *address) noexcept nogil:
    """Whether those 16 bytes are an IPv4 address."""
    cdef uint8_t prefix[12]
    memset(prefix, 0, 10)
    memset(prefix + 10, 0xff, 2)
    return same_bytes(address, prefix, 12)


cdef inline bint same_bytes(const uint8_t *one, const uint8_t *other, uint32_t size) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t difference = 0
    for i in range(size):
        difference |= one[i] ^ other[i]
    return difference == 0


cdef inline bint _is_no_host_v4(const uint8_t *address) noexcept nogil:
    """Nobody, loopback, a group, everybody."""
    cdef uint8_t first = address[0]
    return (
        first == 0 or first == 127 or first & 0xf0 == 224
        or (first == 255 and address[1] & address[2] & address[3] == 255)
    )


cdef inline bint _is_no_host_v6(const uint8_t *address) noexcept nogil:
    """Nobody, loopback, a group; or IPv4, whose flow it would be taken for."""
    cdef uint8_t zeros[15]
    if address[0] == 0xff:
        return True
    if address[0] != 0:
        return False
    memset(zeros, 0, sizeof(zeros))
    return is_mapped(address) or (same_bytes(address, zeros, 15) and address[15] <= 1)


cdef inline bint is_no_host(const uint8_t *address, bint v6) noexcept nogil:
    """Whether no host can have that address; 4 bytes, or 16 of IPv6."""
    return _is_no_host_v6(address) if v6 else _is_no_host_v4(address)
