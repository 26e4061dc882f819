"""What is forwarded: the ports of VIPs and the backends behind them, as the forwarder reads it.

Built off-line (fastpath.forwards), published with one pointer store, never changed, and freed when
the forwarder has moved on. What outlives a table is a *slot*: of a backend, which flows are kept
by, and of a service, which packets are counted by.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastpath.abi cimport MAX_BACKENDS, MAX_SERVICES, prefixes_t
from fastpath.packet.flow cimport flow_key_t


cdef struct target_t:           # a backend of a service
    uint8_t address[16]
    uint8_t source[16]          # ours towards it: of nat, and of outer headers
    uint64_t name               # XXH64 of it, seed 0: what other nodes call it
    uint32_t interface          # index; 0: frames do not get there
    uint16_t port               # network order
    uint16_t slot
    uint16_t mtu                # longest IP packet on the way to it, an outer header included
    uint64_t born               # generation that gave it its slot: tells it from those before it
    uint8_t mac[6]              # of the next hop
    uint8_t own_mac[6]
    uint8_t up                  # else its flows end
    uint8_t open                # and new ones may go to it: it has a weight
    uint8_t v6
    uint8_t here                # this host itself: behind `lo`, and never in an outer header


cdef struct forward_t:          # a port of a VIP
    flow_key_t place            # destination, destination_port and protocol; the rest is 0
    const target_t *targets     # n_targets, by name; owned by the tables
    const uint16_t *maglev      # MAGLEV_SIZE indexes of `targets`; NULL: none is usable
    prefixes_t allowed          # sources that may; n == 0: every one
    uint64_t born               # as in target_t
    uint32_t affinity_ms        # a client goes where it went last, for so long; 0: by its hash
    uint16_t n_targets
    uint16_t slot
    uint8_t how                 # REWRITE_*
    uint8_t affinity            # what one client address sends goes to one backend
    uint8_t draining            # the VIP is about to move: nat takes no new flows


cdef struct forwards_t:
    uint64_t generation
    forward_t *forwards         # n, by `place`; this and what follows is owned
    target_t *targets
    uint32_t n
    uint32_t n_targets
    const target_t *target_of_slot[MAX_BACKENDS]    # NULL: not in these tables
    const forward_t *forward_of_slot[MAX_SERVICES]


cdef inline int place_compare(const flow_key_t *one, const flow_key_t *other) noexcept nogil:
    """The order of forwards_t.forwards: protocol, address, port."""
    cdef int order = <int>one.protocol - <int>other.protocol
    if order == 0:
        order = memcmp(one.destination, other.destination, 16)
    if order == 0:
        order = memcmp(&one.destination_port, &other.destination_port, 2)
    return order


cdef inline const forward_t *forwards_find(
    const forwards_t *self, const flow_key_t *key
) noexcept nogil:
    """The forward that packets with that key came to; NULL: none."""
    cdef uint32_t start = 0
    cdef uint32_t end = self.n
    cdef uint32_t middle
    cdef int order
    while start < end:
        middle = start + (end - start) // 2
        order = place_compare(key, &self.forwards[middle].place)
        if order == 0:
            return &self.forwards[middle]
        if order > 0:
            start = middle + 1
        else:
            end = middle
    return NULL
