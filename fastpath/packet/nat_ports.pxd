"""Ports of ours that NAT connects from: a pool for each backend and address of ours.

Different backends may be connected to from the same port, for their replies tell the connections
apart; so towards each we have the whole range. It is none that the kernel connects from
(ip_local_port_range), and a worker has every n-th port of it: a reply's worker is its port modulo
n.

Where the search for a free port begins is drawn from the flow's hash, so a port cannot be foretold.
One that is given back rests for 2 MSL (RFC 9293, 3.6.1; 60 s, as Linux counts them): what is still
under way of the old connection must not reach the new one. One that *may hurry*, whose connection
was reset or never established, is taken before that when nothing else is left.

A pool is told by the key of its replies (flow_t.ways[WAY_REPLY].key), whose destination port is the
one that is taken. One thread uses a table.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t
from fastpath.packet.flow cimport flow_key_t


cdef enum:
    PORT_REST_MS = 60000
    # What was given back within one span of time is freed together, so some rest that much longer.
    PORT_SPAN_MS = 20000
    PORT_SPANS = 4              # PORT_REST_MS / PORT_SPAN_MS + 1


cdef struct nat_pool_t:
    flow_key_t peer             # of replies, with 0 for the destination port
    uint32_t hash               # of `peer`, low bits
    uint32_t chain              # next in the same bucket, from 1
    uint32_t n_taken            # in use or at rest
    uint32_t n_used             # in use; 0 in a pool that nobody is in
    uint64_t span               # of the latest one, by number
    uint64_t *taken             # a bit for each port that is in use or rests; all these are owned
    uint64_t *hurrying          # those at rest that may hurry
    uint64_t *resting[PORT_SPANS]   # those at rest, by when they were given back


cdef struct nat_ports_t:
    uint64_t hash_key[2]
    slab_t pools
    slab_t bits                 # all the bits of a pool
    slab_t buckets_memory
    uint32_t *buckets           # pools by hash, from 1
    uint32_t bucket_mask
    uint32_t n_words            # of a pool's bits of one kind
    uint32_t n_ports            # of a pool
    uint32_t hand               # where the search for a pool that nobody is in goes on, from 0
    uint32_t first_port
    uint32_t step               # from one port to the next: the number of workers


# Room for `n_pools`, of the ports from first to last that are `worker` modulo `n_workers`. FP_OK;
# FP_BAD: there is no such port, or no room; FP_FULL: there is no memory.
cdef int nat_ports_init(
    nat_ports_t *self,
    uint16_t first_port,
    uint16_t last_port,
    uint16_t worker,
    uint16_t n_workers,
    uint32_t n_pools,
    const uint64_t *hash_key,
) noexcept nogil
cdef void nat_ports_free(nat_ports_t *self) noexcept nogil
# Take a port and make it the destination port of `reply`; `hash` says where to look first. FP_OK;
# FP_PORTS: none is left; FP_FULL: there are too many pools, with somebody in each that was looked
# at.
cdef int nat_ports_take(
    nat_ports_t *self, flow_key_t *reply, uint64_t hash, uint64_t now_ms
) noexcept nogil
# Take that port, which another node has chosen; also one at rest, for it says that the connection
# lives. FP_OK; FP_PORTS: it is in use; FP_FULL: as above; FP_BAD: it is none of ours.
cdef int nat_ports_claim(
    nat_ports_t *self, const flow_key_t *reply, uint64_t now_ms
) noexcept nogil
# Give it back. `silent_ms`: how long its flow has been silent, which is rest, too. `may_hurry`: see
# flow_port_may_hurry.
cdef void nat_ports_give(
    nat_ports_t *self,
    const flow_key_t *reply,
    uint64_t silent_ms,
    bint may_hurry,
    uint64_t now_ms,
) noexcept nogil
