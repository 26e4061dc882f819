"""Where a flow goes: its backend by Maglev, and the rewrites that get packets there and back."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.hashing.siphash cimport siphash13
from fastpath.packet.affinity cimport affinity_t
from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.flow_states cimport flow_t
from fastpath.packet.forwards cimport forward_t, forwards_t, target_t


# The target of packets with that key and hash; one that cannot be reached from here leaves its part
# to the next entry's. NULL: there is none. `hash_key`: for affinity.
cdef const target_t *aim_choose(
    const forward_t *forward, const flow_key_t *key, uint64_t hash, const uint64_t *hash_key
) noexcept nogil
# The target that the packet's client had last, if the forward has clients remembered and new flows
# may go to it; NULL: aim_choose.
cdef const target_t *aim_recall(
    const affinity_t *affinity,
    const forwards_t *tables,
    const forward_t *forward,
    const flow_key_t *key,
    uint64_t now_ms,
) noexcept nogil
# Remember that a flow, which has been confirmed, is its client's latest.
cdef void aim_remember(
    affinity_t *affinity, const forwards_t *tables, const flow_t *flow, uint64_t now_ms
) noexcept nogil
# Set what of a rewrite depends on the way to the backend; `how`: REWRITE_*.
cdef void aim_at(rewrite_t *rewrite, const target_t *target, uint8_t how) noexcept nogil
# Fill in both ways of a NAT flow. Replies leave by `interface` to the client's next hop, from
# `own_mac`; `mtu`: the longest IP packet that may.
cdef void aim_nat(
    flow_t *flow,
    const target_t *target,
    const uint8_t *client_mac,
    const uint8_t *own_mac,
    uint32_t interface,
    uint16_t mtu,
) noexcept nogil


cdef inline uint64_t aim_hash(
    const forward_t *forward, const flow_key_t *key, uint64_t hash, const uint64_t *hash_key
) noexcept nogil:
    """What a forward's Maglev table is asked with: the flow's `hash`, or that of its source."""
    if forward.affinity:
        return siphash13(hash_key[0], hash_key[1], key.source, 16)
    return hash
