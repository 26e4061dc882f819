"""NAT flows that another node goes on with, or has gone on with until now."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK
from fastpath.atomics cimport count, load_acquire, store_release
from fastpath.packet.aim cimport aim_nat
from fastpath.packet.flow cimport REWRITE_NAT, flow_key_t
from fastpath.packet.flow_record cimport (
    RECORD_SIZE, flow_record_read, flow_record_t, flow_record_write,
)
from fastpath.packet.flow_states cimport (
    FLOW_DONE, WAY_ORIGINAL, WAY_REPLY, WAYS, flow_is_carried, flow_t,
)
from fastpath.packet.flows cimport (
    FLOW_HANDED_OVER, flows_adopt, flows_find, flows_hash, flows_next, flows_remove, flows_used_ms,
)
from fastpath.packet.forwarder cimport forwarder_allows, forwarder_carry
from fastpath.packet.forwards cimport forward_t, forwards_find, target_t
from fastpath.packet.nat_ports cimport nat_ports_claim, nat_ports_give


cdef enum:
    _LOOKED_AT = 512            # flows of one turn
    _READ = 64                  # records of one turn: each is two system calls with a flow cache


# ---- to another node ----

cdef inline bint _is_theirs(const handover_t *self, const flow_t *flow) noexcept nogil:
    """Whether it can be handed over: a flow of the VIP that backends see come from there."""
    return (
        flow.n_ways == WAYS
        and flow.state >= FLOW_DONE
        and memcmp(flow.ways[WAY_ORIGINAL].key.destination, self.vip, 16) == 0
        and memcmp(flow.ways[WAY_REPLY].key.destination, self.vip, 16) == 0
    )


cdef void _describe(
    forwarder_t *forwarder, const flow_t *flow, uint64_t backend, uint8_t *data
) noexcept nogil:
    cdef flow_record_t record
    cdef uint64_t used_ms = min(flows_used_ms(&forwarder.flows, flow), forwarder.now_ms)
    record.key = flow.ways[WAY_ORIGINAL].key
    record.backend = backend
    record.silent_ms = <uint32_t>min(forwarder.now_ms - used_ms, <uint64_t>0xffffffff)
    record.nat_port = flow.ways[WAY_REPLY].key.destination_port
    record.state = flow.state
    record.fins = flow.fins
    memcpy(record.client_mac, flow.ways[WAY_REPLY].rewrite.destination_mac, 6)
    flow_record_write(&record, data)


cdef bint _walk(handover_t *self, forwarder_t *forwarder, bint ends) noexcept nogil:
    """Write records of the VIP's flows, or end them. Whether there are more to look at."""
    cdef const target_t *target
    cdef flow_t *flow
    cdef int _i
    for _i in range(_LOOKED_AT):
        flow = flows_next(&forwarder.flows, &self.cursor)
        if flow == NULL or (self.n_done == self.n and not ends):
            return False
        if not _is_theirs(self, flow):
            continue
        if ends:
            flows_remove(&forwarder.flows, flow, FLOW_HANDED_OVER)
            self.n_done += 1
            continue
        target = forwarder.tables.target_of_slot[flow.backend_slot]
        if target != NULL:
            _describe(
                forwarder, flow, target.name, self.records + <size_t>self.n_done * RECORD_SIZE
            )
            self.n_done += 1
    return True


# ---- from another node ----

cdef const target_t *_target(
    const forward_t *forward, uint64_t name, const uint8_t *vip
) noexcept nogil:
    """The backend of that name, if it can be reached from the VIP; else NULL."""
    cdef const target_t *target
    cdef uint32_t i
    for i in range(forward.n_targets):
        target = &forward.targets[i]
        if target.name == name and target.up and target.interface != 0:
            return target if memcmp(target.source, vip, 16) == 0 else NULL
    return NULL


cdef int _add(
    forwarder_t *forwarder, const flow_record_t *record, const target_t *target, flow_t **flow
) noexcept nogil:
    """ADOPT_DONE and the flow, or why not."""
    cdef flow_key_t reply
    cdef uint64_t hash = flows_hash(&forwarder.flows, &record.key)
    cdef int way = 0
    cdef int result
    if flows_find(&forwarder.flows, &record.key, hash, &way) != NULL:
        return ADOPT_KNOWN
    memset(&reply, 0, sizeof(reply))
    memcpy(reply.source, target.address, 16)
    memcpy(reply.destination, target.source, 16)
    reply.source_port = target.port
    reply.destination_port = record.nat_port
    reply.protocol = record.key.protocol
    result = nat_ports_claim(&forwarder.ports, &reply, forwarder.now_ms)
    if result != FP_OK:
        return ADOPT_FULL if result == FP_FULL else ADOPT_NO_PORT
    result = flows_adopt(
        &forwarder.flows, &record.key, hash, &reply, record.state, target.slot,
        forwarder.now_ms, flow,
    )
    if result != FP_OK:
        nat_ports_give(&forwarder.ports, &reply, 0, True, forwarder.now_ms)
        return ADOPT_KNOWN if result == FP_BAD else ADOPT_FULL
    return ADOPT_DONE


cdef int _adopt(
    handover_t *self, forwarder_t *forwarder, const flow_record_t *record
) noexcept nogil:
    cdef const forward_t *forward = forwards_find(forwarder.tables, &record.key)
    cdef const target_t *target
    cdef flow_t *flow = NULL
    cdef int result
    if forward == NULL or forward.how != REWRITE_NAT:
        return ADOPT_NO_SERVICE
    if (
        not forwarder_allows(forwarder, forward, &record.key)
        or memcmp(record.client_mac, self.own_mac, 6) == 0
    ):
        return ADOPT_SOURCE
    target = _target(forward, record.backend, self.vip)
    if target == NULL:
        return ADOPT_NO_BACKEND
    result = _add(forwarder, record, target, &flow)
    if result == ADOPT_DONE:
        flow.service_slot = forward.slot
        flow.answered = 1
        flow.fins = record.fins
        aim_nat(
            flow, target, record.client_mac, self.own_mac, forwarder.outlet.interface,
            <uint16_t>forwarder.outlet.mtu,
        )
        if flow_is_carried(flow):
            forwarder_carry(forwarder, flow)
    return result


cdef bint _read(handover_t *self, forwarder_t *forwarder) noexcept nogil:
    """Adopt some flows. Whether there are more."""
    cdef flow_record_t record
    cdef int _i, result
    for _i in range(_READ):
        if self.cursor == self.n:
            return False
        result = ADOPT_MALFORMED
        if flow_record_read(
            &record, self.vip, self.records + <size_t>self.cursor * RECORD_SIZE
        ) == FP_OK:
            result = _adopt(self, forwarder, &record)
        count(&self.adopted[result], 1)
        self.cursor += 1
    return self.cursor < self.n


cdef bint handover_turn(handover_t *self, forwarder_t *forwarder) noexcept nogil:
    cdef uint64_t command = load_acquire(&self.state)
    cdef bint more
    if command == HANDOVER_IDLE or command == HANDOVER_DONE:
        return False
    if command == HANDOVER_ADOPT:
        more = _read(self, forwarder)
    else:
        more = _walk(self, forwarder, command == HANDOVER_END)
    if not more:
        store_release(&self.state, HANDOVER_DONE)
    return more
