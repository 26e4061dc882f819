"""The flow table: whose packets went where, so that the next ones go there too.

A flow is found by the key of its packets from the client, and with `nat` also by that of the
backend's. What is known of it is its *state*. Anybody can invent flows, so those that nothing
speaks for yet are *new*, the others *confirmed*, and each kind has a capacity of its own: whatever
comes in new, no confirmed flow makes room for it. Within a state flows are in order of use, each
state has one timeout, so ageing looks at the oldest of each only.

The flow cache in the kernel may carry confirmed flows (flow_is_carried): then their packets are
not seen here, and flow_use_t is asked before such a flow ends for its age. Its end is noticed no
later than twice the timeout after its last packet.

One thread uses a table. Times are milliseconds of CLOCK_MONOTONIC, as coarse as the caller likes.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.slab cimport slab_t
from fastpath.packet.flow cimport flow_key_t, flow_use_t
from fastpath.packet.flow_states cimport FLOW_STATES, WAYS, flow_t, flow_way_t, tcp_seen_t


cdef enum:
    FLOWS_MAX = 1 << 20         # of each kind in one table
    # A flow is moved up among those of its state once in so long; this is added to timeouts.
    REFRESH_MS = 1000


cdef enum:                      # why a flow ended; indexes of flow_counters_t.ended
    FLOW_EXPIRED                # silent for too long
    FLOW_EVICTED_NEW            # made room for a newer new one
    FLOW_EVICTED_CONFIRMED      # made room for a newer confirmed one
    FLOW_BACKEND_DOWN
    FLOW_DRAINED                # its backend's deadline has passed
    FLOW_RESELECTED             # the client began anew
    FLOW_REFUSED                # nothing came of it: no NAT port, no backend
    FLOW_STOPPED                # the table is given up, or the service
    FLOW_HANDED_OVER            # another node goes on with it
    FLOW_ENDS


cdef enum:                      # what to do with a packet; see flows_admit
    ADMIT_BY_FLOW
    ADMIT_NEW                   # choose a backend and add a flow
    ADMIT_ANEW                  # the same, after the old flow was removed (FLOW_RESELECTED)
    ADMIT_STATELESS             # dsr: choose by Maglev, add none
    ADMIT_NONE                  # nat: the packet belongs to nothing that is known


cdef enum:                      # what flows_seen says
    FLOW_STAYS
    FLOW_TO_CARRY               # the flow cache may carry it from now on
    FLOW_TO_RECALL              # it must not any more


ctypedef void (*flow_ended_fn)(void *owner, flow_t *flow, int why) noexcept nogil


cdef struct flow_slot_t:        # of the hash table
    uint32_t hash               # low bits of the key's hash
    uint32_t way                # WAYS * number + way of the flow, which is from 1; 0: empty


cdef struct flow_list_t:        # flows of one state
    uint32_t newest
    uint32_t oldest


cdef struct backend_flows_t:    # flows to one backend
    int64_t n                   # others may read it
    uint32_t first
    uint32_t spare


cdef struct flow_counters_t:    # for others to read
    uint64_t added
    uint64_t ended[FLOW_ENDS]
    int64_t n_new
    int64_t n_confirmed


cdef struct flows_t:
    uint64_t hash_key[2]
    flow_slot_t *slots          # slot_mask + 1, at most two thirds full
    uint64_t slot_mask
    slab_t flows
    slab_t slots_memory
    slab_t used_memory
    slab_t backends_memory
    uint64_t *used              # a bit for each flow that is there
    backend_flows_t *backends   # MAX_BACKENDS, by slot
    flow_use_t *uses            # by rewrite_t.use; borrowed; NULL: the kernel carries nothing
    flow_ended_fn ended         # called before a flow goes; may change nothing here. NULL: nobody
    void *owner                 # its first argument
    uint64_t due_ns             # new_per_s: when the next new flow is due by it
    uint32_t new_per_s          # 0: as many as come
    uint32_t new_max
    uint32_t confirmed_max
    uint32_t sweep_state        # where the next sweep begins
    flow_list_t lists[FLOW_STATES]
    flow_counters_t counters


# ---- life ----

# Set aside memory for so many flows of each kind, touched when first used. FP_OK; FP_BAD: none, or
# more than FLOWS_MAX; FP_FULL: there is no memory. What is not an argument is 0 or NULL, to be set.
cdef int flows_init(
    flows_t *self, uint32_t new_max, uint32_t confirmed_max, const uint64_t *hash_key
) noexcept nogil
# Forget all; `ended` is not called.
cdef void flows_free(flows_t *self) noexcept nogil
# How many flow_use_t `uses` has to have.
cdef uint32_t flows_uses(const flows_t *self) noexcept nogil

# ---- a packet's way: hash, find, admit, add, seen ----

# The flow that has this key, and by which of its ways; NULL: there is none.
cdef flow_t *flows_find(
    flows_t *self, const flow_key_t *key, uint64_t hash, int *way
) noexcept nogil
# What to do with a packet whose flow, maybe NULL, was found by that way: ADMIT_*. `tcp_flags` are
# those of a TCP packet. Charges a new dsr flow to new_per_s.
#
# Without a flow: nat takes up what begins with a SYN (and UDP) only. dsr sends everything on by
# Maglev; it adds a flow unless the segment ends one or makes no sense, so that connections which
# another node has forwarded before stay where they are; and none beyond new_per_s.
# A SYN begins anew, unless the flow was begun or used just before, here or in the kernel: then it
# may be sent again, or forged. When the new choice is the same backend, a half-open flow may be
# kept.
cdef int flows_admit(
    flows_t *self,
    flow_t *flow,
    int way,
    bint nat,
    uint8_t protocol,
    uint8_t tcp_flags,
    uint64_t now_ms,
) noexcept nogil
# Add a flow; `reply` is NULL for dsr. The caller fills in the ways' rewrites, but for `use`. When
# there are new_max new ones the oldest makes room. FP_OK, or FP_BAD: a key is there already.
cdef int flows_add(
    flows_t *self,
    const flow_key_t *original,
    uint64_t hash,
    const flow_key_t *reply,
    uint8_t tcp_flags,
    uint16_t backend_slot,
    uint64_t now_ms,
    flow_t **flow,
) noexcept nogil
# Add a confirmed flow that another node has forwarded until now, in that state; its `fins` are the
# caller's to fill in, too. It takes nobody's place. FP_OK; FP_FULL: there are confirmed_max;
# FP_BAD: a key is there already, or `state` is no confirmed one.
cdef int flows_adopt(
    flows_t *self,
    const flow_key_t *original,
    uint64_t hash,
    const flow_key_t *reply,
    uint8_t state,
    uint16_t backend_slot,
    uint64_t now_ms,
    flow_t **flow,
) noexcept nogil
# A packet of the flow goes on by that way; `tcp` is NULL for UDP and for later fragments. The first
# one, too, that it was added for. FLOW_STAYS, FLOW_TO_CARRY or FLOW_TO_RECALL. The flow stays, but
# another one that is confirmed may make room for it.
cdef int flows_seen(
    flows_t *self, flow_t *flow, int way, const tcp_seen_t *tcp, uint64_t now_ms
) noexcept nogil

# ---- ends ----

cdef void flows_remove(flows_t *self, flow_t *flow, int why) noexcept nogil
# End flows that have been silent for too long, looking at no more than `limit`. FP_DONE: no more
# are due; FP_OK: there may be.
cdef int flows_sweep(flows_t *self, uint64_t now_ms, uint32_t limit) noexcept nogil
# End flows to a backend, `limit` at most; how many there were left to end.
cdef uint32_t flows_remove_backend(
    flows_t *self, uint16_t backend_slot, int why, uint32_t limit
) noexcept nogil

# No NAT port is left towards a backend: end a flow to it whose port may be taken at once
# (flow_port_may_hurry), the longest silent one, if it is among the `limit` oldest of its state.
# Whether there was one. So who begins many flows to one backend keeps nobody from beginning others.
cdef bint flows_give_way(
    flows_t *self, uint16_t backend_slot, uint8_t protocol, uint32_t limit
) noexcept nogil

# ---- all of them ----

# The next one from `cursor` on, which is 0 at first; NULL: that was all. Flows that are there all
# the time come once each, whatever is added and removed in between.
cdef flow_t *flows_next(flows_t *self, uint32_t *cursor) noexcept nogil
# The first flow to a backend and the one after; NULL: none.
cdef flow_t *flows_first_of(flows_t *self, uint16_t backend_slot) noexcept nogil
cdef flow_t *flows_next_of(flows_t *self, const flow_t *flow) noexcept nogil
# When it was used last, here or in the kernel.
cdef uint64_t flows_used_ms(const flows_t *self, const flow_t *flow) noexcept nogil


cdef inline uint64_t flows_hash(const flows_t *self, const flow_key_t *key) noexcept nogil:
    """Also what Maglev goes by: the same on every node of the cluster."""
    return siphash13(
        self.hash_key[0], self.hash_key[1], <const uint8_t *>key, sizeof(flow_key_t)
    )
