"""A frame understood: which flow its packet is of, and where its headers are."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.packet.checksum cimport checksum_add, checksum_fold
from fastpath.packet.flow cimport flow_key_t
from fastpath.packet.headers cimport (
    ETHER_QINQ, ETHER_SIZE, ETHER_V4, ETHER_V6, ETHER_VLAN, ICMP6_ECHO, ICMP6_PARAMETER,
    ICMP6_TOO_BIG, ICMP6_UNREACHABLE, ICMP_ECHO, ICMP_FRAGMENTATION_NEEDED, ICMP_MTU,
    ICMP_PARAMETER, ICMP_SIZE, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, MAX_TAGS, PROTO_AH, PROTO_ESP,
    PROTO_FRAGMENT, PROTO_HOP_BY_HOP, PROTO_ICMP, PROTO_ICMP6, PROTO_NONE, PROTO_OPTIONS,
    PROTO_ROUTING, PROTO_TCP, PROTO_UDP, QUOTED_L4_SIZE, TAG_SIZE, TCP_FLAGS, TCP_OFFSET, TCP_SIZE,
    UDP_LENGTH, UDP_SIZE, V4_DESTINATION, V4_FRAGMENT, V4_ID, V4_LENGTH, V4_MORE_FRAGMENTS,
    V4_OFFSET_MASK, V4_PROTOCOL, V4_SIZE, V4_SOURCE, V4_TTL, V6_DESTINATION, V6_HOP_LIMIT,
    V6_LENGTH, V6_NEXT, V6_SIZE, V6_SOURCE, is_mapped, is_no_host, load_be16, load_be32, map_v4,
    same_bytes,
)


cdef enum:
    EXTENSION_SIZE = 8          # at least
    SEGMENTS_LEFT = 3           # offset in a routing header
    OPTION_END = 0
    OPTION_NOTHING = 1
    OPTION_LOOSE_ROUTE = 131
    OPTION_STRICT_ROUTE = 137


cdef struct chain_t:            # from the IP header to what it carries
    uint32_t at                 # offset of the next one
    uint32_t id                 # of a fragment
    uint32_t offset             # of it in its datagram, in bytes
    uint32_t size               # of it, in bytes
    uint8_t protocol            # of the next one
    uint8_t fragment            # FRAGMENT_*
    uint8_t more                # it is not the last one


cdef inline void _fragment(
    chain_t *chain, uint32_t offset, bint more, uint32_t size
) noexcept nogil:
    """Note which part of a datagram this is."""
    chain.offset = offset
    chain.more = more
    chain.size = size
    if offset != 0:
        chain.fragment = FRAGMENT_LATER
    elif more:
        chain.fragment = FRAGMENT_FIRST


cdef inline bint _fits_in_a_datagram(const chain_t *chain) noexcept nogil:
    """What the fragment carries: up to the last byte of one, a multiple of 8 but in the last."""
    return chain.offset + chain.size <= 65535 and (
        not chain.more or (chain.size > 0 and chain.size % 8 == 0)
    )


cdef int _extension(
    const uint8_t *frame, uint32_t end, chain_t *chain
) noexcept nogil:
    """Step over the header at `chain.at`, which is an extension; `end`: of the packet."""
    cdef const uint8_t *header = frame + chain.at
    cdef uint8_t protocol = chain.protocol
    cdef uint32_t size
    cdef uint16_t fragment
    if end - chain.at < EXTENSION_SIZE:
        return PARSE_TRUNCATED
    chain.protocol = header[0]
    if protocol == PROTO_FRAGMENT:
        if chain.fragment != FRAGMENT_NONE:
            return PARSE_EXTENSIONS
        chain.at += EXTENSION_SIZE
        chain.id = load_be32(header + 4)
        fragment = load_be16(header + 2)
        _fragment(chain, fragment & 0xfff8, fragment & 1, end - chain.at)
        return PARSE_FLOW
    if protocol == PROTO_AH:
        size = (<uint32_t>header[1] + 2) * 4        # RFC 4302, 2.2
    else:
        size = (<uint32_t>header[1] + 1) * 8
    if protocol == PROTO_ROUTING and header[SEGMENTS_LEFT] != 0:
        return PARSE_ROUTED
    if size > end - chain.at:
        return PARSE_TRUNCATED
    chain.at += size
    return PARSE_FLOW


cdef int _extensions(
    const uint8_t *frame, uint32_t end, chain_t *chain
) noexcept nogil:
    """Step over those of IPv6, up to a later fragment's own bytes."""
    cdef int n = 0
    cdef int result
    while chain.fragment != FRAGMENT_LATER:
        if chain.protocol == PROTO_ESP or chain.protocol == PROTO_NONE:
            return PARSE_HIDDEN
        if chain.protocol == PROTO_HOP_BY_HOP:
            if n > 0:                               # RFC 8200, 4.1
                return PARSE_EXTENSIONS
        elif (
            chain.protocol != PROTO_ROUTING and chain.protocol != PROTO_FRAGMENT
            and chain.protocol != PROTO_AH and chain.protocol != PROTO_OPTIONS
        ):
            break
        n += 1
        if n > MAX_EXTENSIONS:
            return PARSE_EXTENSIONS
        result = _extension(frame, end, chain)
        if result != PARSE_FLOW:
            return result
    return PARSE_FLOW


cdef int _options(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Look for those of IPv4 that say which way a packet takes."""
    while at < end and at[0] != OPTION_END:
        if at[0] == OPTION_NOTHING:
            at += 1
            continue
        if at[0] == OPTION_LOOSE_ROUTE or at[0] == OPTION_STRICT_ROUTE:
            return PARSE_ROUTED
        if end - at < 2 or at[1] < 2 or at[1] > end - at:
            return PARSE_LENGTH
        at += at[1]
    return PARSE_FLOW


cdef int _addresses(const uint8_t *header, packet_t *packet) noexcept nogil:
    """Those of the IP header; they make the key."""
    cdef const uint8_t *source = header + (V6_SOURCE if packet.v6 else V4_SOURCE)
    cdef const uint8_t *destination = header + (V6_DESTINATION if packet.v6 else V4_DESTINATION)
    if packet.v6:
        memcpy(packet.key.source, source, 16)
        memcpy(packet.key.destination, destination, 16)
    else:
        map_v4(packet.key.source, source)
        map_v4(packet.key.destination, destination)
    if is_no_host(source, packet.v6):
        return PARSE_SOURCE
    if is_no_host(destination, packet.v6):
        return PARSE_DESTINATION
    if same_bytes(packet.key.source, packet.key.destination, 16):
        return PARSE_LAND
    return PARSE_FLOW


cdef int _transport(const uint8_t *frame, packet_t *packet) noexcept nogil:
    """TCP or UDP with its ports; a first fragment has the whole header too (RFC 1858, RFC 7112)."""
    cdef const uint8_t *l4 = frame + packet.l4
    cdef uint32_t size = packet.end - packet.l4
    cdef uint32_t own_size
    if packet.protocol == PROTO_TCP:
        if size < TCP_SIZE:
            return PARSE_TRUNCATED
        own_size = <uint32_t>(l4[TCP_OFFSET] >> 4) * 4
        if own_size < TCP_SIZE:
            return PARSE_LENGTH
        if own_size > size:
            return PARSE_TRUNCATED
        packet.tcp_flags = l4[TCP_FLAGS]
        packet.payload = <uint16_t>(packet.l4 + own_size)
    else:
        if size < UDP_SIZE:
            return PARSE_TRUNCATED
        own_size = load_be16(l4 + UDP_LENGTH)
        if own_size < UDP_SIZE or (own_size > size and packet.fragment == FRAGMENT_NONE):
            return PARSE_LENGTH
        packet.payload = packet.l4 + UDP_SIZE
    memcpy(&packet.key.source_port, l4, 2)
    memcpy(&packet.key.destination_port, l4 + 2, 2)
    return PARSE_FLOW


cdef inline bint _is_error(const uint8_t *icmp, bint v6) noexcept nogil:
    if v6:
        return ICMP6_UNREACHABLE <= icmp[0] <= ICMP6_PARAMETER
    return (
        icmp[0] == ICMP_UNREACHABLE or icmp[0] == ICMP_TIME_EXCEEDED or icmp[0] == ICMP_PARAMETER
    )


cdef inline bint _is_too_narrow(const uint8_t *icmp, bint v6) noexcept nogil:
    """Whether it says that a path bears less than every one does."""
    cdef uint16_t mtu
    if v6:
        return icmp[0] == ICMP6_TOO_BIG and load_be32(icmp + ICMP_MTU) < MTU_MIN_V6
    if icmp[0] != ICMP_UNREACHABLE or icmp[1] != ICMP_FRAGMENTATION_NEEDED:
        return False
    mtu = load_be16(icmp + ICMP_MTU + 2)
    return 0 < mtu < MTU_MIN_V4


cdef int _quoted_v4(
    const uint8_t *header, uint32_t size, chain_t *chain, uint32_t *total
) noexcept nogil:
    cdef uint32_t own_size
    if size < V4_SIZE or header[0] >> 4 != 4:
        return PARSE_QUOTE
    own_size = <uint32_t>(header[0] & 15) * 4
    if own_size < V4_SIZE or own_size > size:
        return PARSE_QUOTE
    total[0] = load_be16(header + V4_LENGTH)
    chain.at += own_size
    chain.protocol = header[V4_PROTOCOL]
    if load_be16(header + V4_FRAGMENT) & V4_OFFSET_MASK:
        return PARSE_QUOTE
    return PARSE_FLOW


cdef int _quoted_v6(
    const uint8_t *frame, uint32_t end, chain_t *chain, uint32_t *total
) noexcept nogil:
    cdef const uint8_t *header = frame + chain.at
    if end - chain.at < V6_SIZE or header[0] >> 4 != 6:
        return PARSE_QUOTE
    total[0] = V6_SIZE + <uint32_t>load_be16(header + V6_LENGTH)
    chain.protocol = header[V6_NEXT]
    chain.at += V6_SIZE
    if _extensions(frame, end, chain) != PARSE_FLOW or chain.fragment == FRAGMENT_LATER:
        return PARSE_QUOTE
    return PARSE_FLOW


cdef int _quote(const uint8_t *frame, packet_t *packet) noexcept nogil:
    """The packet that an error is about, which went the other way: from whom the error is to."""
    cdef flow_key_t *key = &packet.key
    cdef chain_t chain
    cdef const uint8_t *header
    cdef uint32_t total = 0
    cdef int result
    memset(&chain, 0, sizeof(chain))
    chain.at = packet.l4 + ICMP_SIZE
    header = frame + chain.at
    if packet.v6:
        result = _quoted_v6(frame, packet.end, &chain, &total)
    else:
        result = _quoted_v4(header, packet.end - chain.at, &chain, &total)
    if result != PARSE_FLOW:
        return result
    if chain.protocol != PROTO_TCP and chain.protocol != PROTO_UDP:
        return PARSE_ICMP
    packet.quoted_l3 = <uint16_t>(header - frame)
    packet.quoted_l4 = <uint16_t>chain.at
    packet.quoted_end = min(packet.end, packet.quoted_l3 + total)
    if packet.quoted_end < packet.quoted_l4 + <uint32_t>QUOTED_L4_SIZE:
        return PARSE_QUOTE
    key.protocol = chain.protocol
    if packet.v6:
        if not same_bytes(key.destination, header + V6_SOURCE, 16):
            return PARSE_QUOTE
        memcpy(key.source, header + V6_DESTINATION, 16)
        if is_mapped(key.source):
            return PARSE_QUOTE
    else:
        if not same_bytes(key.destination + 12, header + V4_SOURCE, 4):
            return PARSE_QUOTE
        map_v4(key.source, header + V4_DESTINATION)
    memcpy(&key.destination_port, frame + chain.at, 2)
    memcpy(&key.source_port, frame + chain.at + 2, 2)
    return PARSE_ICMP_ERROR


cdef int _icmp(const uint8_t *frame, packet_t *packet) noexcept nogil:
    cdef const uint8_t *icmp = frame + packet.l4
    if packet.fragment != FRAGMENT_NONE:
        return PARSE_ICMP
    if packet.end - packet.l4 < ICMP_SIZE:
        return PARSE_TRUNCATED
    if icmp[0] == (ICMP6_ECHO if packet.v6 else ICMP_ECHO):
        return PARSE_ECHO if icmp[1] == 0 else PARSE_ICMP
    if not _is_error(icmp, packet.v6):
        return PARSE_ICMP
    if _is_too_narrow(icmp, packet.v6):
        return PARSE_MTU
    return _quote(frame, packet)


cdef int _carried(const uint8_t *frame, const chain_t *chain, packet_t *packet) noexcept nogil:
    """What the IP header and its extensions carry."""
    packet.l4 = <uint16_t>chain.at
    packet.protocol = chain.protocol
    packet.key.protocol = chain.protocol
    packet.fragment = chain.fragment
    if chain.fragment != FRAGMENT_NONE:
        packet.fragment_id = chain.id
        packet.fragment_protocol = 0 if packet.v6 else chain.protocol
        if not _fits_in_a_datagram(chain):
            return PARSE_LENGTH
    if chain.protocol == PROTO_TCP or chain.protocol == PROTO_UDP:
        if chain.fragment != FRAGMENT_LATER:
            return _transport(frame, packet)
        if chain.protocol == PROTO_TCP and chain.offset < TCP_SIZE:
            return PARSE_OVERLAP
        return PARSE_FRAGMENT
    # In a later fragment extensions of the first one may come before what it carries.
    if packet.v6 and chain.fragment == FRAGMENT_LATER and chain.protocol == PROTO_OPTIONS:
        return PARSE_FRAGMENT
    if chain.protocol == (PROTO_ICMP6 if packet.v6 else PROTO_ICMP):
        return _icmp(frame, packet)
    return PARSE_OTHER


cdef int _v4(const uint8_t *frame, uint32_t size, packet_t *packet) noexcept nogil:
    cdef const uint8_t *header = frame + packet.l3
    cdef uint32_t own_size, total
    cdef uint16_t fragment
    cdef chain_t chain
    cdef int result
    size -= packet.l3
    if size < V4_SIZE:
        return PARSE_TRUNCATED
    if header[0] >> 4 != 4:
        return PARSE_NOT_IP
    own_size = <uint32_t>(header[0] & 15) * 4
    total = load_be16(header + V4_LENGTH)
    if own_size < V4_SIZE or total < own_size:
        return PARSE_LENGTH
    if total > size:
        return PARSE_TRUNCATED
    if checksum_fold(checksum_add(0, header, own_size)) != 0xffff:
        return PARSE_CHECKSUM
    packet.end = packet.l3 + total
    packet.ttl = header[V4_TTL]
    result = _addresses(header, packet)
    if result == PARSE_FLOW and own_size > V4_SIZE:
        result = _options(header + V4_SIZE, header + own_size)
    if result != PARSE_FLOW:
        return result
    memset(&chain, 0, sizeof(chain))
    chain.at = packet.l3 + own_size
    chain.protocol = header[V4_PROTOCOL]
    fragment = load_be16(header + V4_FRAGMENT)
    if fragment & (V4_MORE_FRAGMENTS | V4_OFFSET_MASK):
        chain.id = load_be16(header + V4_ID)
        _fragment(
            &chain, <uint32_t>(fragment & V4_OFFSET_MASK) * 8, fragment & V4_MORE_FRAGMENTS != 0,
            total - own_size,
        )
    return _carried(frame, &chain, packet)


cdef int _v6(const uint8_t *frame, uint32_t size, packet_t *packet) noexcept nogil:
    cdef const uint8_t *header = frame + packet.l3
    cdef uint32_t total
    cdef chain_t chain
    cdef int result
    size -= packet.l3
    if size < V6_SIZE:
        return PARSE_TRUNCATED
    if header[0] >> 4 != 6:
        return PARSE_NOT_IP
    # 0 with a hop-by-hop header is a jumbogram (RFC 2675), which fails there.
    total = V6_SIZE + <uint32_t>load_be16(header + V6_LENGTH)
    if total > size:
        return PARSE_TRUNCATED
    packet.end = packet.l3 + total
    packet.ttl = header[V6_HOP_LIMIT]
    result = _addresses(header, packet)
    if result != PARSE_FLOW:
        return result
    memset(&chain, 0, sizeof(chain))
    chain.at = packet.l3 + V6_SIZE
    chain.protocol = header[V6_NEXT]
    result = _extensions(frame, packet.end, &chain)
    if result != PARSE_FLOW:
        return result
    return _carried(frame, &chain, packet)


cdef int _parse(const uint8_t *frame, uint32_t size, packet_t *packet) noexcept nogil:
    """Ethernet."""
    cdef uint32_t at = ETHER_SIZE
    cdef int n_tags = 0
    cdef uint16_t kind
    if size < at:
        return PARSE_TRUNCATED
    kind = load_be16(frame + at - 2)
    while (kind == ETHER_VLAN or kind == ETHER_QINQ) and n_tags < MAX_TAGS:
        n_tags += 1
        at += TAG_SIZE
        if size < at:
            return PARSE_TRUNCATED
        kind = load_be16(frame + at - 2)
    packet.l3 = <uint16_t>at
    packet.v6 = kind == ETHER_V6
    if kind != ETHER_V4 and kind != ETHER_V6:
        return PARSE_NOT_IP
    if frame[0] & 1:
        return PARSE_DESTINATION
    return _v6(frame, size, packet) if packet.v6 else _v4(frame, size, packet)


cdef int packet_parse(const uint8_t *frame, uint32_t size, packet_t *packet) noexcept nogil:
    memset(packet, 0, sizeof(packet_t))
    packet.verdict = <uint8_t>_parse(frame, size, packet)
    return packet.verdict
