"""Where a flow goes: its backend by Maglev, and the rewrites that get packets there and back."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastpath.abi cimport FP_OK, MAX_BACKENDS, MAX_SERVICES
from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.packet.affinity cimport affinity_recall, affinity_remember
from fastpath.packet.encapsulate cimport encapsulation_size
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, REWRITE_MAC, REWRITE_NAT
from fastpath.packet.flow_states cimport WAY_ORIGINAL, WAY_REPLY
from fastpath.packet.rewrite cimport rewrite_nat_init


cdef enum:
    _CHOICES = 64               # entries of a Maglev table that are looked at for a target


cdef inline bint _takes(
    const forward_t *forward, const target_t *target, const flow_key_t *key
) noexcept nogil:
    """Whether packets with that key get there from here, and are taken for what they are."""
    # A packet from its own address a host takes for a forgery (martian), unless nat changes it.
    return target.interface != 0 and (
        forward.how == REWRITE_NAT or memcmp(target.address, key.source, 16) != 0
    )


cdef const target_t *aim_choose(
    const forward_t *forward, const flow_key_t *key, uint64_t hash, const uint64_t *hash_key
) noexcept nogil:
    cdef const target_t *target
    cdef uint32_t at
    cdef int _i
    if forward.maglev == NULL:
        return NULL
    at = <uint32_t>(aim_hash(forward, key, hash, hash_key) % MAGLEV_SIZE)
    for _i in range(_CHOICES):
        target = &forward.targets[forward.maglev[at]]
        if _takes(forward, target, key):
            return target
        at = at + 1 if at + 1 < MAGLEV_SIZE else 0
    return NULL


# What stands for this service, this backend, and never for another, whoever gets its slot.

cdef inline uint64_t _service_key(const forward_t *forward) noexcept nogil:
    return forward.born * MAX_SERVICES + forward.slot


cdef inline uint64_t _backend_key(const target_t *target) noexcept nogil:
    return target.born * MAX_BACKENDS + target.slot


cdef const target_t *aim_recall(
    const affinity_t *affinity, const forwards_t *tables, const forward_t *forward,
    const flow_key_t *key, uint64_t now_ms,
) noexcept nogil:
    cdef const target_t *target
    cdef uint64_t known = 0
    # While the VIP moves dsr sends each packet where the next owner does, which remembers nobody.
    if forward.affinity_ms == 0 or forward.draining or affinity_recall(
        affinity, key.source, _service_key(forward), forward.affinity_ms, now_ms, &known
    ) != FP_OK:
        return NULL
    target = tables.target_of_slot[known % MAX_BACKENDS]
    if target == NULL or _backend_key(target) != known or not target.open:
        return NULL
    return target if _takes(forward, target, key) else NULL


cdef void aim_remember(
    affinity_t *affinity, const forwards_t *tables, const flow_t *flow, uint64_t now_ms
) noexcept nogil:
    cdef const forward_t *forward = tables.forward_of_slot[flow.service_slot]
    cdef const target_t *target = tables.target_of_slot[flow.backend_slot]
    if forward != NULL and forward.affinity_ms > 0 and target != NULL:
        affinity_remember(
            affinity, flow.ways[WAY_ORIGINAL].key.source, _service_key(forward),
            _backend_key(target), now_ms,
        )


cdef void aim_at(rewrite_t *rewrite, const target_t *target, uint8_t how) noexcept nogil:
    if target.here:
        how = REWRITE_MAC
    rewrite.how = how
    rewrite.interface = target.interface
    rewrite.mtu = target.mtu
    memcpy(rewrite.destination_mac, target.mac, 6)
    memcpy(rewrite.source_mac, target.own_mac, 6)
    if how == REWRITE_ENCAPSULATE:
        memcpy(rewrite.source, target.source, 16)
        memcpy(rewrite.destination, target.address, 16)
        rewrite.v6 = target.v6
        rewrite.mtu = target.mtu - encapsulation_size(rewrite)


cdef void aim_nat(
    flow_t *flow,
    const target_t *target,
    const uint8_t *client_mac,
    const uint8_t *own_mac,
    uint32_t interface,
    uint16_t mtu,
) noexcept nogil:
    cdef const flow_key_t *original = &flow.ways[WAY_ORIGINAL].key
    cdef const flow_key_t *reply = &flow.ways[WAY_REPLY].key
    cdef rewrite_t *out = &flow.ways[WAY_ORIGINAL].rewrite
    cdef rewrite_t *back = &flow.ways[WAY_REPLY].rewrite
    aim_at(out, target, REWRITE_NAT)
    memcpy(out.source, reply.destination, 16)
    memcpy(out.destination, reply.source, 16)
    out.source_port = reply.destination_port
    out.destination_port = reply.source_port
    rewrite_nat_init(out, original)
    back.how = REWRITE_NAT
    back.interface = interface
    back.mtu = mtu
    memcpy(back.destination_mac, client_mac, 6)
    memcpy(back.source_mac, own_mac, 6)
    memcpy(back.source, original.destination, 16)
    memcpy(back.destination, original.source, 16)
    back.source_port = original.destination_port
    back.destination_port = original.source_port
    rewrite_nat_init(back, reply)
