"""What becomes of a frame: `nat` and `dsr`, decided and sent."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_OK, FP_PORTS, MAX_SERVICES
from fastpath.address cimport address_is_v4
from fastpath.atomics cimport count, load_acquire
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.packet.affinity cimport affinity_free, affinity_init
from fastpath.packet.aim cimport aim_at, aim_choose, aim_nat, aim_recall, aim_remember
from fastpath.packet.encapsulate cimport encapsulation_size
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, REWRITE_NAT, flow_key_t, rewrite_t
from fastpath.packet.flow_map cimport flow_map_delete, flow_map_put
from fastpath.packet.flow_states cimport (
    WAY_ORIGINAL, WAY_REPLY, flow_is_carried, flow_is_confirmed, flow_port_may_hurry, flow_t,
    tcp_seen_read, tcp_seen_t,
)
from fastpath.packet.flows cimport (
    ADMIT_ANEW, ADMIT_BY_FLOW, ADMIT_NONE, ADMIT_STATELESS, FLOW_BACKEND_DOWN, FLOW_DRAINED,
    FLOW_RESELECTED, FLOW_STOPPED, FLOW_TO_CARRY, FLOW_TO_RECALL, flows_add,
    flows_admit, flows_find, flows_first_of, flows_free, flows_give_way, flows_hash, flows_init,
    flows_next, flows_next_of, flows_remove, flows_remove_backend, flows_seen, flows_sweep,
)
from fastpath.packet.forwards cimport forward_t, forwards_find, forwards_t, target_t
from fastpath.packet.fragments cimport (
    fragment_key_t, fragments_add, fragments_find, fragments_free, fragments_init,
)
from fastpath.packet.held cimport held_free, held_init, held_put, held_take
from fastpath.packet.nat_ports cimport (
    nat_ports_free, nat_ports_give, nat_ports_init, nat_ports_take,
)
from fastpath.packet.outcomes cimport (
    FORWARD_DRAINING, FORWARD_HELD, FORWARD_MALFORMED, FORWARD_NO_BACKEND, FORWARD_NO_FLOW,
    FORWARD_NO_PORT, FORWARD_PASSED, FORWARD_SENT, FORWARD_SILENT, FORWARD_SOURCE,
    FORWARD_TOO_BIG,
)
from fastpath.packet.outlet cimport outlet_flush, outlet_free, outlet_init, outlet_send
from fastpath.packet.parse cimport (
    FRAGMENT_FIRST, MTU_MIN_V4, MTU_MIN_V6, PARSE_ECHO, PARSE_FLOW, PARSE_FRAGMENT, PARSE_HIDDEN,
    PARSE_ICMP, PARSE_ICMP_ERROR,
    packet_parse, packet_t,
)
from fastpath.packet.tap cimport frame_t
from fastpath.packet.tunnel_error cimport tunnel_error_read, tunnel_error_t
from fastpath.ranges cimport ranges_have
from fastpath.rate cimport NS_PER_MS
from fastpath.sys_linux cimport IPPROTO_TCP


cdef enum:
    _FRAGMENTS = 4096           # datagrams whose ports are known
    _POOLS = 4096               # of NAT ports: backends, by address of ours
    _GIVE_WAY = 64              # flows looked at for one whose port may be had
    _SWEEP = 256                # flows looked at in one turn


# ---- life ----

cdef int forwarder_init(
    forwarder_t *self,
    const uint64_t *hash_key,
    uint32_t new_max,
    uint32_t confirmed_max,
    uint16_t first_port,
    uint16_t last_port,
) noexcept nogil:
    cdef int result
    memset(self, 0, sizeof(forwarder_t))
    result = outlet_init(&self.outlet)
    if result != FP_OK:
        return result
    result = flows_init(&self.flows, new_max, confirmed_max, hash_key)
    if result == FP_OK:
        result = fragments_init(&self.fragments, _FRAGMENTS, hash_key)
    if result == FP_OK:
        result = nat_ports_init(&self.ports, first_port, last_port, 0, 1, _POOLS, hash_key)
    if result == FP_OK:
        result = held_init(&self.held)
    if result == FP_OK:
        result = affinity_init(&self.affinity, confirmed_max, hash_key)
    if result == FP_OK:
        result = slab_init(
            &self.counters_memory, 1, (MAX_SERVICES + 1) * sizeof(forward_counters_t)
        )
    if result != FP_OK:
        forwarder_free(self)
        return result
    self.counters = <forward_counters_t *>slab_get(&self.counters_memory)  # fresh pages are zero
    self.flows.ended = _ended
    self.flows.owner = self
    return FP_OK


cdef void forwarder_free(forwarder_t *self) noexcept nogil:
    outlet_free(&self.outlet)
    slab_free(&self.counters_memory)
    affinity_free(&self.affinity)
    held_free(&self.held)
    nat_ports_free(&self.ports)
    fragments_free(&self.fragments)
    flows_free(&self.flows)


# ---- flows' ends, and the kernel's flow cache ----

cdef void _recall(forwarder_t *self, const flow_t *flow) noexcept nogil:
    cdef int way
    if self.map != NULL:
        for way in range(flow.n_ways):
            flow_map_delete(self.map, &flow.ways[way].key)


cdef void forwarder_carry(forwarder_t *self, const flow_t *flow) noexcept nogil:
    cdef int way
    if self.map == NULL:
        return
    for way in range(flow.n_ways):
        if flow_map_put(self.map, &flow.ways[way].key, &flow.ways[way].rewrite) != FP_OK:
            _recall(self, flow)
            return


cdef void _ended(void *owner, flow_t *flow, int _why) noexcept nogil:
    cdef forwarder_t *self = <forwarder_t *>owner
    cdef uint64_t silent_ms = self.now_ms - min(flow.seen_ms, self.now_ms)
    if flow_is_carried(flow):
        _recall(self, flow)
    if flow.n_ways == 2:
        nat_ports_give(
            &self.ports, &flow.ways[WAY_REPLY].key, silent_ms, flow_port_may_hurry(flow),
            self.now_ms,
        )


# ---- counting ----

cdef int _counted(forwarder_t *self, uint16_t slot, int verdict) noexcept nogil:
    count(&self.counters[slot].packets[verdict], 1)
    return verdict


# ---- sending ----

cdef inline bint _is_over(const forwarder_t *self) noexcept nogil:
    """Whether the VIPs may be another node's: what nat sends comes from them."""
    return (
        self.lease_ns != NULL and self.now_ms * NS_PER_MS >= load_acquire(self.lease_ns)
    )


cdef int _send(
    forwarder_t *self,
    frame_t *frame,
    const packet_t *packet,
    const rewrite_t *rewrite,
    uint16_t service_slot,
) noexcept nogil:
    cdef uint32_t size = frame.size
    cdef int verdict
    if rewrite.how == REWRITE_NAT and _is_over(self):
        return _counted(self, service_slot, FORWARD_SILENT)
    verdict = outlet_send(&self.outlet, frame, packet, rewrite, self.now_ms)
    if verdict == FORWARD_SENT:
        count(&self.counters[service_slot].bytes, size)
    return _counted(self, service_slot, verdict)


cdef void forwarder_flush(forwarder_t *self) noexcept nogil:
    outlet_flush(&self.outlet)


# ---- flows ----

cdef int _begin(
    forwarder_t *self,
    const frame_t *frame,
    const packet_t *packet,
    const forward_t *forward,
    const target_t *target,
    uint64_t hash,
    flow_t **flow,
) noexcept nogil:
    """Add a flow to that target. FORWARD_SENT, or why not."""
    cdef flow_key_t reply
    cdef flow_t *added = NULL
    cdef bint nat = forward.how == REWRITE_NAT
    cdef int result
    if nat:
        memset(&reply, 0, sizeof(reply))
        memcpy(reply.source, target.address, 16)
        memcpy(reply.destination, target.source, 16)
        reply.source_port = target.port
        reply.protocol = packet.key.protocol
        result = nat_ports_take(&self.ports, &reply, hash, self.now_ms)
        if result == FP_PORTS and flows_give_way(
            &self.flows, target.slot, reply.protocol, _GIVE_WAY
        ):
            result = nat_ports_take(&self.ports, &reply, hash, self.now_ms)
        if result != FP_OK:
            return FORWARD_NO_PORT
    result = flows_add(
        &self.flows, &packet.key, hash, &reply if nat else NULL, packet.tcp_flags, target.slot,
        self.now_ms, &added,
    )
    if result != FP_OK:
        if nat:
            nat_ports_give(&self.ports, &reply, 0, True, self.now_ms)
        return FORWARD_NO_PORT
    added.service_slot = forward.slot
    if nat:
        aim_nat(
            added, target, frame.data + 6, frame.data, self.outlet.interface,
            <uint16_t>self.outlet.mtu,
        )
    else:
        aim_at(&added.ways[WAY_ORIGINAL].rewrite, target, forward.how)
    count(&self.counters[forward.slot].new_flows, 1)
    flow[0] = added
    return FORWARD_SENT


# ---- packets ----

cdef void _follow_client(
    forwarder_t *self, flow_t *flow, const frame_t *frame
) noexcept nogil:
    """The client's next hop has another MAC now: replies go there.

    What comes to a VIP that another node owns already was passed on by it, in its own name.
    """
    cdef rewrite_t *back = &flow.ways[WAY_REPLY].rewrite
    if self.tables.forward_of_slot[flow.service_slot].draining:
        return
    if memcmp(back.destination_mac, frame.data + 6, 6) != 0:
        memcpy(back.destination_mac, frame.data + 6, 6)
        if flow_is_carried(flow):
            forwarder_carry(self, flow)


cdef int _by_flow(
    forwarder_t *self, frame_t *frame, const packet_t *packet, flow_t *flow, int way
) noexcept nogil:
    cdef tcp_seen_t tcp
    cdef bint is_tcp = packet.key.protocol == IPPROTO_TCP
    cdef bint was_confirmed = flow_is_confirmed(flow)
    cdef int seen
    if is_tcp:
        tcp_seen_read(&tcp, frame.data + packet.l4)
    seen = flows_seen(&self.flows, flow, way, &tcp if is_tcp else NULL, self.now_ms)
    if seen == FLOW_TO_CARRY:
        forwarder_carry(self, flow)
    elif seen == FLOW_TO_RECALL:
        _recall(self, flow)
    if flow_is_confirmed(flow) and not was_confirmed:
        aim_remember(&self.affinity, self.tables, flow, self.now_ms)
    if way == WAY_ORIGINAL and flow.n_ways == 2:
        _follow_client(self, flow, frame)
    return _send(self, frame, packet, &flow.ways[way].rewrite, flow.service_slot)


cdef const target_t *_choose(
    forwarder_t *self, const packet_t *packet, const forward_t *forward, uint64_t hash
) noexcept nogil:
    """Where the client went last, else by Maglev. NULL: nowhere."""
    cdef const target_t *known = aim_recall(
        &self.affinity, self.tables, forward, &packet.key, self.now_ms
    )
    if known != NULL:
        return known
    return aim_choose(forward, &packet.key, hash, self.flows.hash_key)


cdef int _without_flow(
    forwarder_t *self,
    frame_t *frame,
    const packet_t *packet,
    const forward_t *forward,
    uint64_t hash,
) noexcept nogil:
    """dsr: as every other packet of the flow."""
    cdef rewrite_t rewrite
    cdef const target_t *target = _choose(self, packet, forward, hash)
    if target == NULL:
        return _counted(self, forward.slot, FORWARD_NO_BACKEND)
    memset(&rewrite, 0, sizeof(rewrite))
    aim_at(&rewrite, target, forward.how)
    count(&self.counters[forward.slot].stateless, 1)
    return _send(self, frame, packet, &rewrite, forward.slot)


cdef bint forwarder_allows(
    const forwarder_t *self, const forward_t *forward, const flow_key_t *key
) noexcept nogil:
    cdef flow_key_t back = key[0]
    if forward.allowed.n > 0 and not ranges_have(&forward.allowed, key.source):
        return False
    # From a VIP's own port nobody asks.
    memcpy(back.destination, key.source, 16)
    back.destination_port = key.source_port
    return forwards_find(self.tables, &back) == NULL


cdef const forward_t *_open_to(
    forwarder_t *self, const packet_t *packet, int *verdict
) noexcept nogil:
    """The forward that a packet without a flow may go by; NULL: none, `verdict` says why."""
    cdef const forward_t *forward = forwards_find(self.tables, &packet.key)
    if forward == NULL:
        verdict[0] = _counted(self, NO_SERVICE, FORWARD_PASSED)
        return NULL
    if not forwarder_allows(self, forward, &packet.key):
        verdict[0] = _counted(self, forward.slot, FORWARD_SOURCE)
        return NULL
    return forward


cdef int _new(
    forwarder_t *self,
    frame_t *frame,
    const packet_t *packet,
    const forward_t *forward,
    uint64_t hash,
) noexcept nogil:
    cdef const target_t *target
    cdef flow_t *flow = NULL
    cdef int verdict
    if forward.draining and forward.how == REWRITE_NAT:
        return _counted(self, forward.slot, FORWARD_DRAINING)
    target = _choose(self, packet, forward, hash)
    if target == NULL:
        return _counted(self, forward.slot, FORWARD_NO_BACKEND)
    verdict = _begin(self, frame, packet, forward, target, hash, &flow)
    if verdict != FORWARD_SENT:
        return _counted(self, forward.slot, verdict)
    return _by_flow(self, frame, packet, flow, WAY_ORIGINAL)


cdef int _flow_packet(forwarder_t *self, frame_t *frame, const packet_t *packet) noexcept nogil:
    """TCP or UDP with its ports."""
    cdef uint64_t hash = flows_hash(&self.flows, &packet.key)
    cdef int way = 0
    cdef flow_t *flow = flows_find(&self.flows, &packet.key, hash, &way)
    cdef const forward_t *forward = NULL
    cdef int admitted
    cdef int verdict = FORWARD_SENT
    cdef bint nat
    if flow != NULL:
        nat = flow.n_ways == 2
    else:
        forward = _open_to(self, packet, &verdict)
        if forward == NULL:
            return verdict
        nat = forward.how == REWRITE_NAT
    admitted = flows_admit(
        &self.flows, flow, way, nat, packet.key.protocol, packet.tcp_flags, self.now_ms
    )
    if admitted == ADMIT_BY_FLOW:
        return _by_flow(self, frame, packet, flow, way)
    if admitted == ADMIT_NONE:
        return _counted(
            self, NO_SERVICE if forward == NULL else forward.slot, FORWARD_NO_FLOW
        )
    if admitted == ADMIT_ANEW:
        flows_remove(&self.flows, flow, FLOW_RESELECTED)
        forward = _open_to(self, packet, &verdict)
        if forward == NULL:
            return verdict
    if admitted == ADMIT_STATELESS:
        return _without_flow(self, frame, packet, forward, hash)
    return _new(self, frame, packet, forward, hash)


cdef int _known_packet(forwarder_t *self, frame_t *frame, const packet_t *packet) noexcept nogil:
    """One that changes nothing about its flow: a later fragment, an ICMP error."""
    cdef uint64_t hash = flows_hash(&self.flows, &packet.key)
    cdef int way = 0
    cdef flow_t *flow = flows_find(&self.flows, &packet.key, hash, &way)
    cdef const forward_t *forward
    cdef int verdict = FORWARD_SENT
    if flow != NULL:
        return _send(self, frame, packet, &flow.ways[way].rewrite, flow.service_slot)
    forward = _open_to(self, packet, &verdict)
    if forward == NULL:
        return verdict
    if forward.how == REWRITE_NAT:
        return _counted(self, forward.slot, FORWARD_NO_FLOW)
    return _without_flow(self, frame, packet, forward, hash)


cdef void _fragment_key(const packet_t *packet, fragment_key_t *key) noexcept nogil:
    memset(key, 0, sizeof(fragment_key_t))
    memcpy(key.source, packet.key.source, 16)
    memcpy(key.destination, packet.key.destination, 16)
    key.identification = packet.fragment_id
    key.protocol = packet.fragment_protocol


cdef int _fragment(forwarder_t *self, frame_t *frame, packet_t *packet) noexcept nogil:
    cdef fragment_key_t key
    _fragment_key(packet, &key)
    if fragments_find(
        &self.fragments, &key, &packet.key.source_port, &packet.key.destination_port, self.now_ms
    ) == FP_OK:
        return _known_packet(self, frame, packet)
    if held_put(&self.held, &key, frame, self.now_ms) != FP_OK:
        return _counted(self, NO_SERVICE, FORWARD_TOO_BIG)
    return _counted(self, NO_SERVICE, FORWARD_HELD)


cdef void _release_held(forwarder_t *self, const fragment_key_t *key) noexcept nogil:
    """The first fragment has gone; those that came before it follow."""
    cdef packet_t packet
    cdef frame_t *held = held_take(&self.held, key, self.now_ms)
    if held == NULL:
        return
    while held != NULL:
        packet_parse(held.data, held.size, &packet)
        _fragment(self, held, &packet)
        held = held_take(&self.held, key, self.now_ms)
    forwarder_flush(self)       # before others are held where these wait


cdef int _first_fragment(forwarder_t *self, frame_t *frame, packet_t *packet) noexcept nogil:
    cdef fragment_key_t key
    cdef int verdict
    _fragment_key(packet, &key)
    fragments_add(
        &self.fragments, &key, packet.key.source_port, packet.key.destination_port, self.now_ms
    )
    verdict = _flow_packet(self, frame, packet)
    _release_held(self, &key)
    return verdict


cdef int _narrow(forwarder_t *self, const frame_t *frame, const packet_t *packet) noexcept nogil:
    """A router says that what a flow's outer header adds makes its packets too long for the way.

    From now on they may be shorter only; who sends a longer one, or that one again, is told so.
    """
    cdef tunnel_error_t error
    cdef flow_t *flow
    cdef rewrite_t *rewrite
    cdef int way = WAY_REPLY
    cdef int mtu
    if tunnel_error_read(&error, frame.data, packet) != FP_OK:
        return _counted(self, NO_SERVICE, FORWARD_PASSED)
    flow = flows_find(&self.flows, &error.key, flows_hash(&self.flows, &error.key), &way)
    if flow == NULL or way != WAY_ORIGINAL:
        return _counted(self, NO_SERVICE, FORWARD_PASSED)
    rewrite = &flow.ways[WAY_ORIGINAL].rewrite
    if (
        rewrite.how != REWRITE_ENCAPSULATE
        or memcmp(rewrite.source, error.source, 16) != 0
        or memcmp(rewrite.destination, error.destination, 16) != 0
    ):
        return _counted(self, flow.service_slot, FORWARD_SOURCE)
    mtu = max(
        <int>error.mtu - <int>encapsulation_size(rewrite),
        <int>MTU_MIN_V4 if address_is_v4(error.key.source) else <int>MTU_MIN_V6,
    )
    if mtu < rewrite.mtu:
        rewrite.mtu = <uint16_t>mtu
        if flow_is_carried(flow):
            forwarder_carry(self, flow)
    return _counted(self, flow.service_slot, FORWARD_TOO_BIG)


cdef int forwarder_take(forwarder_t *self, frame_t *frame) noexcept nogil:
    cdef packet_t packet
    cdef int verdict
    if frame.vlan_protocol != 0:        # another network's
        return _counted(self, NO_SERVICE, FORWARD_PASSED)
    verdict = packet_parse(frame.data, frame.size, &packet)
    count(&self.parsed[verdict], 1)
    if verdict == PARSE_FLOW:
        if packet.fragment == FRAGMENT_FIRST:
            return _first_fragment(self, frame, &packet)
        return _flow_packet(self, frame, &packet)
    if verdict == PARSE_FRAGMENT:
        return _fragment(self, frame, &packet)
    if verdict == PARSE_ICMP_ERROR:
        return _known_packet(self, frame, &packet)
    if verdict == PARSE_ICMP:
        return _narrow(self, frame, &packet)
    if PARSE_ECHO <= verdict <= PARSE_HIDDEN:
        return _counted(self, NO_SERVICE, FORWARD_PASSED)
    return _counted(self, NO_SERVICE, FORWARD_MALFORMED)


# ---- other tables ----

cdef bint _moved(const target_t *before, const target_t *now) noexcept nogil:
    return (
        before.interface != now.interface
        or before.mtu != now.mtu
        or memcmp(before.mac, now.mac, 6) != 0
        or memcmp(before.own_mac, now.own_mac, 6) != 0
    )


cdef void _follow_target(forwarder_t *self, const target_t *target) noexcept nogil:
    """Its flows go the new way. Without one they keep the old: it may be back in a moment."""
    cdef flow_t *flow = flows_first_of(&self.flows, target.slot)
    if target.interface == 0:
        return
    while flow != NULL:
        aim_at(
            &flow.ways[WAY_ORIGINAL].rewrite, target,
            self.tables.forward_of_slot[flow.service_slot].how,
        )
        if flow_is_carried(flow):
            forwarder_carry(self, flow)
        flow = flows_next_of(&self.flows, flow)


cdef void _end_others(forwarder_t *self, const forwards_t *tables) noexcept nogil:
    """Flows of services that are gone."""
    cdef uint32_t cursor = 0
    cdef flow_t *flow = flows_next(&self.flows, &cursor)
    while flow != NULL:
        if tables.forward_of_slot[flow.service_slot] == NULL:
            flows_remove(&self.flows, flow, FLOW_STOPPED)
        flow = flows_next(&self.flows, &cursor)


cdef void forwarder_pick_up(forwarder_t *self, const forwards_t *tables) noexcept nogil:
    cdef const forwards_t *before = self.tables
    cdef const target_t *now
    cdef bint services_gone = False
    cdef uint32_t i
    self.tables = tables
    if before == NULL:
        return
    for i in range(before.n):
        if tables.forward_of_slot[before.forwards[i].slot] == NULL:
            services_gone = True
    if services_gone:
        _end_others(self, tables)
    for i in range(before.n_targets):
        now = tables.target_of_slot[before.targets[i].slot]
        if now == NULL:
            flows_remove_backend(
                &self.flows, before.targets[i].slot, FLOW_DRAINED, 0xffffffffu
            )
        elif not now.up:
            flows_remove_backend(&self.flows, now.slot, FLOW_BACKEND_DOWN, 0xffffffffu)
        elif _moved(&before.targets[i], now):
            _follow_target(self, now)


cdef void forwarder_age(forwarder_t *self) noexcept nogil:
    flows_sweep(&self.flows, self.now_ms, _SWEEP)
