"""NAT flows that another node goes on with, or has gone on with until now.

Somebody who is not the forwarder's thread asks, the thread does some of it at each of its turns,
and says when it is done: the flow table has one owner, and no packet waits for long.

Whoever asks fills in what the command reads, sets `state` with a release, wakes the thread, and
touches nothing but `state` until that is HANDOVER_DONE (with an acquire).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.packet.forwarder cimport forwarder_t


cdef enum:                      # handover_t.state
    HANDOVER_IDLE = 0
    HANDOVER_EXPORT = 1         # write records of the VIP's confirmed flows
    HANDOVER_ADOPT = 2          # go on with the flows of these records
    HANDOVER_END = 3            # end the VIP's confirmed flows: another node has them
    HANDOVER_DONE = 4


cdef enum:                      # what became of a record; names in verdicts.py
    ADOPT_DONE = 0
    ADOPT_MALFORMED = 1         # no such flow can be
    ADOPT_KNOWN = 2             # it is here
    ADOPT_NO_SERVICE = 3        # the VIP's port is not one of nat here
    ADOPT_SOURCE = 4            # the client is not allowed, or is this node
    ADOPT_NO_BACKEND = 5        # it is not in the tables, down, not reached from the VIP
    ADOPT_NO_PORT = 6           # the NAT port is another flow's, or none of ours
    ADOPT_FULL = 7
    ADOPT_COUNT = 8


cdef struct handover_t:
    uint64_t state
    uint8_t vip[16]
    uint8_t own_mac[6]          # adopt: of the interface that clients come by
    uint8_t *records            # export, adopt; borrowed until it is done
    uint32_t n                  # export: room for so many; adopt: how many there are
    uint32_t cursor
    uint32_t n_done             # export: written; end: ended
    uint64_t adopted[ADOPT_COUNT]   # of all that was asked for ever; for others to read


# Do some of what is asked for. Whether there is more to do, now.
cdef bint handover_turn(handover_t *self, forwarder_t *forwarder) noexcept nogil
