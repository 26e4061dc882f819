"""What a packet means for the state of its flow: pure decisions, apart from the table's keeping.

With `dsr` only the client's half is seen: then what the client does has to do for both.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.packet.headers cimport PROTO_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN

cdef extern from *:
    """
    /* Near those of conntrack (nf_conntrack-sysctl), but an established connection may be silent
       for 2 h 4 min (RFC 5382, REQ-5) and not for five days; UDP: RFC 4787, REQ-5. What is done
       has 2 MSL as Linux counts them. */
    static const uint32_t fp_flow_patience_ms[] = {
        10000,      /* FLOW_ABORTED */
        60000,      /* FLOW_HALF_OPEN */
        30000,      /* FLOW_UNREPLIED */
        10000,      /* FLOW_CLOSED */
        60000,      /* FLOW_DONE */
        120000,     /* FLOW_CLOSING */
        7440000,    /* FLOW_ESTABLISHED */
        120000,     /* FLOW_STREAM */
    };
    """
    const uint32_t fp_flow_patience_ms[FLOW_STATES]


cdef enum:
    FIN_OF_CLIENT = 1 << WAY_ORIGINAL
    FIN_OF_BOTH = (1 << WAYS) - 1


cdef uint64_t flow_patience_ms(const flow_t *flow) noexcept nogil:
    return fp_flow_patience_ms[flow.state]


cdef inline uint32_t _age_ms(const flow_t *flow, uint64_t now_ms) noexcept nogil:
    return <uint32_t>now_ms - flow.began_ms


cdef inline uint64_t _silent_ms(const flow_t *flow, uint64_t now_ms) noexcept nogil:
    return now_ms - flow.seen_ms if now_ms > flow.seen_ms else 0


cdef inline bint _is_assured(const flow_t *flow, int way, uint64_t now_ms) noexcept nogil:
    """The client goes on after an answer; where none can be seen, after a time.

    So a flood from forged sources confirms nothing, though each of its packets were answered.
    """
    if way == WAY_REPLY:
        return False
    return flow.answered if flow.n_ways == WAYS else _age_ms(flow, now_ms) >= ASSURED_MS


cdef inline bint _shakes_hands(const flow_t *flow, int way, const tcp_seen_t *tcp) noexcept nogil:
    """The client has got the backend's SYN, of which who forged its address knows nothing."""
    if way == WAY_REPLY or not tcp.flags & TCP_ACK:
        return False
    return flow.n_ways < WAYS or (
        flow.answered and tcp.acknowledgment - flow.first_ack <= <uint32_t>HANDSHAKE_WINDOW
    )


cdef inline uint8_t _state_by_fins(const flow_t *flow) noexcept nogil:
    if flow.fins == 0:
        return FLOW_ESTABLISHED
    return FLOW_DONE if flow.fins == FIN_OF_BOTH else FLOW_CLOSING


cdef uint8_t _after_datagram(flow_t *flow, int way, uint64_t now_ms) noexcept nogil:
    if flow.state == FLOW_UNREPLIED and _is_assured(flow, way, now_ms):
        return FLOW_STREAM
    if way == WAY_REPLY:
        flow.answered = 1
    return flow.state


cdef uint8_t _after_syn(flow_t *flow, int way, const tcp_seen_t *tcp) noexcept nogil:
    """Nothing follows from one alone, and one in the midst of a connection may be forged."""
    if way == WAY_REPLY and tcp.flags & TCP_ACK and not flow_is_confirmed(flow):
        flow.answered = 1
        flow.first_ack = tcp.sequence + 1
    return flow.state


cdef uint8_t _after_segment(
    flow_t *flow, int way, const tcp_seen_t *tcp, uint64_t now_ms
) noexcept nogil:
    """Of a segment without SYN and RST."""
    if flow.state == FLOW_UNREPLIED:
        if tcp.flags & TCP_FIN:
            return FLOW_ABORTED             # who joins a connection at its end needs no flow
        return FLOW_ESTABLISHED if _is_assured(flow, way, now_ms) else FLOW_UNREPLIED
    if not flow_is_confirmed(flow) and not _shakes_hands(flow, way, tcp):
        return flow.state
    if flow.state == FLOW_CLOSED and _silent_ms(flow, now_ms) < REVIVED_MS:
        return FLOW_CLOSED
    if tcp.flags & TCP_FIN:
        flow.fins |= 1 << way
    return _state_by_fins(flow)


cdef uint8_t flow_state_after(
    flow_t *flow, int way, const tcp_seen_t *tcp, uint64_t now_ms
) noexcept nogil:
    if tcp == NULL:
        if flow.ways[WAY_ORIGINAL].key.protocol == PROTO_TCP:
            return flow.state               # a later fragment
        return _after_datagram(flow, way, now_ms)
    if tcp.flags & TCP_RST:
        return FLOW_CLOSED if flow_is_confirmed(flow) else FLOW_ABORTED
    if tcp.flags & TCP_SYN:
        return _after_syn(flow, way, tcp)
    return _after_segment(flow, way, tcp, now_ms)


cdef bint flow_begins_anew(const flow_t *flow, uint64_t now_ms) noexcept nogil:
    if flow.state == FLOW_HALF_OPEN or flow.state == FLOW_UNREPLIED:
        return _age_ms(flow, now_ms) >= SYN_AGAIN_MS
    if flow.state == FLOW_ESTABLISHED or (
        flow.state == FLOW_CLOSING and not flow.fins & FIN_OF_CLIENT
    ):
        return _silent_ms(flow, now_ms) >= SYN_AGAIN_MS
    return True                             # the client itself has ended it, or was told so
