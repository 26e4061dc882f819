"""A flow, and what a packet means for its state: decisions, apart from the table that keeps it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.headers cimport (
    TCP_ACK, TCP_FIN, TCP_FLAGS, TCP_RST, TCP_SYN, load_be32,
)


cdef enum:
    # RFC 6298: SYNs are sent again after 1 and 3 s; such a one stays with its backend.
    SYN_AGAIN_MS = 4000
    # A flow that nobody was seen to answer is confirmed if it goes on after so long (conntrack).
    ASSURED_MS = 2000
    # Who goes on so long after a reset has not been reset: it was forged, or out of the window.
    REVIVED_MS = 2000
    # How far beyond the backend's SYN the client's first ACK that is seen may be.
    HANDSHAKE_WINDOW = 65535


cdef enum:                      # flow_t.state; of a kind the first make room first
    FLOW_ABORTED                # new. TCP: reset before it was established
    FLOW_HALF_OPEN              # TCP: a SYN was seen
    FLOW_UNREPLIED              # UDP, or TCP whose beginning was not seen
    FLOW_CLOSED                 # confirmed. TCP: reset
    FLOW_DONE                   # TCP: a FIN from either side
    FLOW_CLOSING                # TCP: a FIN from one side
    FLOW_ESTABLISHED            # TCP
    FLOW_STREAM                 # UDP
    FLOW_STATES


cdef enum:                      # index of flow_t.ways
    WAY_ORIGINAL                # from the client
    WAY_REPLY                   # from the backend; nat only
    WAYS


cdef struct tcp_seen_t:         # of a TCP header, in host order
    uint32_t sequence
    uint32_t acknowledgment
    uint8_t flags               # TCP_*


cdef struct flow_way_t:
    flow_key_t key
    rewrite_t rewrite           # its `use` is given by the table


cdef struct flow_t:             # 256 bytes; a dsr flow uses the first 152
    uint64_t seen_ms            # when it was last used, REFRESH_MS more or less
    uint32_t began_ms           # the low bits of when it was added
    uint32_t newer              # in the list of its state, numbers of flows, from 1; 0: none
    uint32_t older
    uint32_t next_of_backend
    uint32_t previous_of_backend
    uint32_t hashes[WAYS]       # the low bits of the keys' hashes
    uint32_t first_ack          # nat: what the client acknowledges first; good when `answered`
    uint16_t backend_slot
    uint16_t service_slot
    uint8_t state
    uint8_t n_ways              # 1: dsr, 2: nat
    uint8_t answered            # nat: the backend has sent its SYN, or a datagram
    uint8_t fins                # a bit for each way
    flow_way_t ways[WAYS]


# The state after this packet; `tcp` is NULL for UDP and for later fragments. Notes in the flow what
# it has said.
cdef uint8_t flow_state_after(
    flow_t *flow, int way, const tcp_seen_t *tcp, uint64_t now_ms
) noexcept nogil
# Whether a SYN from the client begins anew; see flows_admit.
cdef bint flow_begins_anew(const flow_t *flow, uint64_t now_ms) noexcept nogil
# How long a flow may be silent.
cdef uint64_t flow_patience_ms(const flow_t *flow) noexcept nogil


cdef inline void tcp_seen_read(tcp_seen_t *self, const uint8_t *l4) noexcept nogil:
    """Of a whole TCP header."""
    self.sequence = load_be32(l4 + 4)
    self.acknowledgment = load_be32(l4 + 8)
    self.flags = l4[TCP_FLAGS]


cdef inline bint tcp_begins(uint8_t flags) noexcept nogil:
    """Whether these flags are those of a client's first segment."""
    return flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN


cdef inline bint tcp_goes_on(uint8_t flags) noexcept nogil:
    """Whether these are those of a segment in the midst of a connection."""
    return flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_ACK


cdef inline bint flow_is_confirmed(const flow_t *self) noexcept nogil:
    return self.state >= FLOW_CLOSED


cdef inline bint flow_port_may_hurry(const flow_t *self) noexcept nogil:
    """Whether its NAT port may be another's before it has rested: no data can be under way of what
    was reset, or never confirmed (but a datagram that its client has not waited for).
    """
    return self.state <= FLOW_CLOSED


cdef inline bint flow_is_carried(const flow_t *self) noexcept nogil:
    """Whether the flow cache may carry it."""
    return self.state >= FLOW_ESTABLISHED
