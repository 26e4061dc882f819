"""The flow table: whose packets went where, so that the next ones go there too.

The hash table is open addressing with linear probing: eight bytes a place, so that a miss seldom
leaves one cache line, and a piece of the hash, so that a hit compares one key. What is taken out
lets those after it move back (Knuth, 6.4, algorithm R): no tombstones, and nothing slows down.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport (
    FP_BAD, FP_DONE, FP_FULL, FP_OK, MAX_BACKENDS, fp_assert, fp_static_assert,
)
from fastpath.atomics cimport count, gauge, load_relaxed, store_relaxed
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put
from fastpath.packet.flow_states cimport (
    FLOW_ABORTED, FLOW_CLOSED, FLOW_HALF_OPEN, FLOW_STREAM, FLOW_UNREPLIED, WAY_ORIGINAL,
    flow_begins_anew, flow_is_carried, flow_is_confirmed, flow_patience_ms, flow_state_after,
    tcp_begins, tcp_goes_on,
)
from fastpath.packet.headers cimport PROTO_TCP
from fastpath.rate cimport NS_PER_MS, rate_wait_ms

cdef extern from * nogil:
    int count_zeros "__builtin_ctzll" (unsigned long long)


cdef enum:
    WORD_BITS = 64
    # So many that the kernel has used in the meantime are passed over to find one to evict.
    EVICT_TRIES = 16


fp_static_assert(sizeof(flow_t) == 256)
fp_static_assert(sizeof(flow_key_t) == 40)
fp_static_assert(sizeof(flow_slot_t) == 8)


# ---- life ----

cdef int flows_init(
    flows_t *self, uint32_t new_max, uint32_t confirmed_max, const uint64_t *hash_key
) noexcept nogil:
    memset(self, 0, sizeof(flows_t))
    if not (0 < new_max <= FLOWS_MAX and 0 < confirmed_max <= FLOWS_MAX):
        return FP_BAD
    cdef uint32_t n_flows = new_max + confirmed_max
    cdef uint64_t n_slots = 1
    while n_slots * 2 < <uint64_t>n_flows * WAYS * 3:
        n_slots *= 2
    if (
        slab_init(&self.flows, n_flows, sizeof(flow_t)) != FP_OK
        or slab_init(
            &self.slots_memory, 1, <uint32_t>(n_slots * sizeof(flow_slot_t))
        ) != FP_OK
        or slab_init(&self.used_memory, 1, (n_flows // WORD_BITS + 1) * 8) != FP_OK
        or slab_init(
            &self.backends_memory, 1, MAX_BACKENDS * sizeof(backend_flows_t)
        ) != FP_OK
    ):
        flows_free(self)
        return FP_FULL
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.new_max = new_max
    self.confirmed_max = confirmed_max
    self.slots = <flow_slot_t *>slab_get(&self.slots_memory)        # fresh pages are zero
    self.slot_mask = n_slots - 1
    self.used = <uint64_t *>slab_get(&self.used_memory)
    self.backends = <backend_flows_t *>slab_get(&self.backends_memory)
    return FP_OK


cdef void flows_free(flows_t *self) noexcept nogil:
    slab_free(&self.flows)
    slab_free(&self.slots_memory)
    slab_free(&self.used_memory)
    slab_free(&self.backends_memory)
    memset(self, 0, sizeof(flows_t))


cdef uint32_t flows_uses(const flows_t *self) noexcept nogil:
    return WAYS * self.flows.n_objects


# ---- flows by number, from 1 ----

cdef inline flow_t *_flow(const flows_t *self, uint32_t number) noexcept nogil:
    if number == 0:
        return NULL
    return <flow_t *>(self.flows.memory + <size_t>(number - 1) * self.flows.stride)


cdef inline uint32_t _number(const flows_t *self, const flow_t *flow) noexcept nogil:
    cdef size_t offset = <size_t>(<const uint8_t *>flow - self.flows.memory)
    return <uint32_t>(offset // self.flows.stride) + 1


# ---- the hash table ----

cdef void _put_way(flows_t *self, uint32_t hash, uint32_t way) noexcept nogil:
    cdef uint64_t place = hash & self.slot_mask
    while self.slots[place].way != 0:
        place = (place + 1) & self.slot_mask
    self.slots[place].hash = hash
    self.slots[place].way = way


cdef void _take_way(flows_t *self, uint32_t hash, uint32_t way) noexcept nogil:
    """Take it out, and move back those after it that may come nearer to where they belong."""
    cdef uint64_t mask = self.slot_mask
    cdef uint64_t hole = hash & mask
    while self.slots[hole].way != way:
        fp_assert(self.slots[hole].way != 0)
        hole = (hole + 1) & mask
    cdef uint64_t place = (hole + 1) & mask
    while self.slots[place].way != 0:
        if ((place - self.slots[place].hash) & mask) >= ((place - hole) & mask):
            self.slots[hole] = self.slots[place]
            hole = place
        place = (place + 1) & mask
    self.slots[hole].way = 0


cdef flow_t *flows_find(
    flows_t *self, const flow_key_t *key, uint64_t hash, int *way
) noexcept nogil:
    cdef uint32_t piece = <uint32_t>hash
    cdef uint64_t place = piece & self.slot_mask
    cdef flow_slot_t slot = self.slots[place]
    cdef flow_t *flow
    while slot.way != 0:
        if slot.hash == piece:
            flow = _flow(self, slot.way // WAYS)
            if memcmp(&flow.ways[slot.way % WAYS].key, key, sizeof(flow_key_t)) == 0:
                way[0] = slot.way % WAYS
                return flow
        place = (place + 1) & self.slot_mask
        slot = self.slots[place]
    return NULL


# ---- flows of a state, in order of use ----

cdef void _link(flows_t *self, flow_t *flow, uint32_t number) noexcept nogil:
    """Make it the newest of its state."""
    cdef flow_list_t *flows = &self.lists[flow.state]
    flow.newer = 0
    flow.older = flows.newest
    if flows.newest != 0:
        _flow(self, flows.newest).newer = number
    else:
        flows.oldest = number
    flows.newest = number


cdef void _unlink(flows_t *self, flow_t *flow) noexcept nogil:
    cdef flow_list_t *flows = &self.lists[flow.state]
    if flow.newer != 0:
        _flow(self, flow.newer).older = flow.older
    else:
        flows.newest = flow.older
    if flow.older != 0:
        _flow(self, flow.older).newer = flow.newer
    else:
        flows.oldest = flow.newer


cdef void _renew(flows_t *self, flow_t *flow, uint64_t seen_ms) noexcept nogil:
    flow.seen_ms = seen_ms
    if flow.newer != 0:
        _unlink(self, flow)
        _link(self, flow, _number(self, flow))


cdef void _count_kind(flows_t *self, bint confirmed, int change) noexcept nogil:
    gauge(&self.counters.n_confirmed if confirmed else &self.counters.n_new, change)


cdef uint64_t flows_used_ms(const flows_t *self, const flow_t *flow) noexcept nogil:
    cdef uint32_t way
    cdef uint64_t used_ms = flow.seen_ms
    if self.uses == NULL or not flow_is_carried(flow):
        return used_ms
    for way in range(flow.n_ways):
        used_ms = max(
            used_ms, load_relaxed(&self.uses[flow.ways[way].rewrite.use].last_ns) // NS_PER_MS
        )
    return used_ms


cdef bint _kernel_renews(flows_t *self, flow_t *flow) noexcept nogil:
    """Whether the flow cache has used it later than was seen here; then it is the newest."""
    cdef uint64_t used_ms = flows_used_ms(self, flow)
    if used_ms == flow.seen_ms:
        return False
    _renew(self, flow, used_ms)
    return True


# ---- flows to one backend ----

cdef void _join_backend(flows_t *self, flow_t *flow, uint32_t number) noexcept nogil:
    cdef backend_flows_t *backend = &self.backends[flow.backend_slot]
    flow.previous_of_backend = 0
    flow.next_of_backend = backend.first
    if backend.first != 0:
        _flow(self, backend.first).previous_of_backend = number
    backend.first = number
    gauge(&backend.n, 1)


cdef void _leave_backend(flows_t *self, flow_t *flow) noexcept nogil:
    cdef backend_flows_t *backend = &self.backends[flow.backend_slot]
    if flow.previous_of_backend != 0:
        _flow(self, flow.previous_of_backend).next_of_backend = flow.next_of_backend
    else:
        backend.first = flow.next_of_backend
    if flow.next_of_backend != 0:
        _flow(self, flow.next_of_backend).previous_of_backend = flow.previous_of_backend
    gauge(&backend.n, -1)


cdef flow_t *flows_first_of(flows_t *self, uint16_t backend_slot) noexcept nogil:
    return _flow(self, self.backends[backend_slot].first)


cdef flow_t *flows_next_of(flows_t *self, const flow_t *flow) noexcept nogil:
    return _flow(self, flow.next_of_backend)


# ---- ends ----

cdef void flows_remove(flows_t *self, flow_t *flow, int why) noexcept nogil:
    cdef uint32_t number = _number(self, flow)
    cdef uint32_t way
    if self.ended != NULL:
        self.ended(self.owner, flow, why)
    for way in range(flow.n_ways):
        _take_way(self, flow.hashes[way], WAYS * number + way)
    _unlink(self, flow)
    _leave_backend(self, flow)
    _count_kind(self, flow_is_confirmed(flow), -1)
    count(&self.counters.ended[why], 1)
    self.used[number // WORD_BITS] &= ~(<uint64_t>1 << (number % WORD_BITS))
    slab_put(&self.flows, flow)


cdef flow_t *_to_evict(flows_t *self, uint32_t first, uint32_t last) noexcept nogil:
    """Of the states from first to last: one that is over, else the longest silent of the last two.
    """
    cdef uint32_t state
    cdef flow_t *one
    cdef flow_t *other
    for state in range(first, last - 1):
        if self.lists[state].oldest != 0:
            return _flow(self, self.lists[state].oldest)
    one = _flow(self, self.lists[last - 1].oldest)
    other = _flow(self, self.lists[last].oldest)
    if one == NULL or (other != NULL and other.seen_ms < one.seen_ms):
        return other
    return one


cdef void _evict_confirmed(flows_t *self) noexcept nogil:
    cdef flow_t *flow = _to_evict(self, FLOW_CLOSED, FLOW_STREAM)
    cdef int tries = EVICT_TRIES
    while tries > 0 and _kernel_renews(self, flow):
        flow = _to_evict(self, FLOW_CLOSED, FLOW_STREAM)
        tries -= 1
    flows_remove(self, flow, FLOW_EVICTED_CONFIRMED)


cdef int flows_sweep(flows_t *self, uint64_t now_ms, uint32_t limit) noexcept nogil:
    cdef uint32_t turn, state
    cdef flow_t *flow
    for turn in range(<uint32_t>FLOW_STATES):
        state = (self.sweep_state + turn) % FLOW_STATES
        flow = _flow(self, self.lists[state].oldest)
        while flow != NULL and flow.seen_ms + flow_patience_ms(flow) + REFRESH_MS <= now_ms:
            if limit == 0:
                self.sweep_state = (state + 1) % FLOW_STATES        # no state waits for ever
                return FP_OK
            limit -= 1
            if not _kernel_renews(self, flow):
                flows_remove(self, flow, FLOW_EXPIRED)
            flow = _flow(self, self.lists[state].oldest)
    return FP_DONE


cdef uint32_t flows_remove_backend(
    flows_t *self, uint16_t backend_slot, int why, uint32_t limit
) noexcept nogil:
    cdef backend_flows_t *backend = &self.backends[backend_slot]
    while backend.first != 0 and limit > 0:
        flows_remove(self, _flow(self, backend.first), why)
        limit -= 1
    return <uint32_t>backend.n


cdef flow_t *_oldest_to(
    flows_t *self, int state, uint16_t backend_slot, uint8_t protocol, uint32_t limit
) noexcept nogil:
    """The oldest of that state with a port towards that backend; NULL: none of the first."""
    cdef flow_t *flow = _flow(self, self.lists[state].oldest)
    while flow != NULL and limit > 0:
        if (
            flow.backend_slot == backend_slot
            and flow.ways[WAY_ORIGINAL].key.protocol == protocol
            and flow.n_ways == WAYS
        ):
            return flow
        limit -= 1
        flow = _flow(self, flow.newer)
    return NULL


cdef bint flows_give_way(
    flows_t *self, uint16_t backend_slot, uint8_t protocol, uint32_t limit
) noexcept nogil:
    cdef flow_t *longest = NULL
    cdef flow_t *flow
    cdef int state
    for state in range(<int>FLOW_CLOSED + 1):
        flow = _oldest_to(self, state, backend_slot, protocol, limit)
        if flow != NULL and (longest == NULL or flow.seen_ms < longest.seen_ms):
            longest = flow
    if longest == NULL:
        return False
    flows_remove(
        self, longest,
        FLOW_EVICTED_CONFIRMED if flow_is_confirmed(longest) else FLOW_EVICTED_NEW,
    )
    return True


# ---- a packet's way ----

cdef int flows_admit(
    flows_t *self, flow_t *flow, int way, bint nat, uint8_t protocol, uint8_t tcp_flags,
    uint64_t now_ms,
) noexcept nogil:
    cdef bint begins = protocol == PROTO_TCP and tcp_begins(tcp_flags)
    if flow != NULL:
        if begins and way == WAY_ORIGINAL:
            _kernel_renews(self, flow)
            if flow_begins_anew(flow, now_ms):
                return ADMIT_ANEW
        return ADMIT_BY_FLOW
    if nat:
        return ADMIT_NEW if begins or protocol != PROTO_TCP else ADMIT_NONE
    if protocol == PROTO_TCP and not begins and not tcp_goes_on(tcp_flags):
        return ADMIT_STATELESS
    if self.new_per_s and rate_wait_ms(&self.due_ns, now_ms * NS_PER_MS, self.new_per_s) > 0:
        return ADMIT_STATELESS
    return ADMIT_NEW


cdef void _clear_use(flows_t *self, flow_way_t *way, uint32_t use) noexcept nogil:
    way.rewrite.use = use
    if self.uses != NULL:
        store_relaxed(&self.uses[use].packets, 0)
        store_relaxed(&self.uses[use].bytes, 0)
        store_relaxed(&self.uses[use].last_ns, 0)


cdef void _add_way(
    flows_t *self, flow_t *flow, uint32_t number, const flow_key_t *key, uint64_t hash
) noexcept nogil:
    cdef uint32_t way = flow.n_ways
    flow.n_ways += 1
    flow.hashes[way] = <uint32_t>hash
    flow.ways[way].key = key[0]
    _clear_use(self, &flow.ways[way], WAYS * (number - 1) + way)
    _put_way(self, flow.hashes[way], WAYS * number + way)


cdef bint _is_there(
    flows_t *self, const flow_key_t *original, uint64_t hash, const flow_key_t *reply
) noexcept nogil:
    """Whether either key is, or they are one."""
    cdef int way = 0
    if flows_find(self, original, hash, &way) != NULL:
        return True
    return reply != NULL and (
        memcmp(original, reply, sizeof(flow_key_t)) == 0
        or flows_find(self, reply, flows_hash(self, reply), &way) != NULL
    )


cdef flow_t *_insert(
    flows_t *self, const flow_key_t *original, uint64_t hash, const flow_key_t *reply,
    uint8_t state, uint16_t backend_slot, uint64_t now_ms,
) noexcept nogil:
    """There is room, and neither key is there."""
    cdef flow_t *added = <flow_t *>slab_get(&self.flows)
    cdef uint32_t number
    fp_assert(added != NULL)                # there is one for each of either kind
    memset(added, 0, sizeof(flow_t) if reply != NULL else sizeof(flow_t) - sizeof(flow_way_t))
    number = _number(self, added)
    added.seen_ms = now_ms
    added.began_ms = <uint32_t>now_ms
    added.backend_slot = backend_slot
    added.state = state
    _add_way(self, added, number, original, hash)
    if reply != NULL:
        _add_way(self, added, number, reply, flows_hash(self, reply))
    _link(self, added, number)
    _join_backend(self, added, number)
    _count_kind(self, flow_is_confirmed(added), 1)
    count(&self.counters.added, 1)
    self.used[number // WORD_BITS] |= <uint64_t>1 << (number % WORD_BITS)
    return added


cdef int flows_add(
    flows_t *self, const flow_key_t *original, uint64_t hash, const flow_key_t *reply,
    uint8_t tcp_flags, uint16_t backend_slot, uint64_t now_ms, flow_t **flow,
) noexcept nogil:
    cdef bint begins = original.protocol == PROTO_TCP and tcp_begins(tcp_flags)
    flow[0] = NULL
    if _is_there(self, original, hash, reply):
        return FP_BAD
    if self.counters.n_new >= self.new_max:
        flows_remove(self, _to_evict(self, FLOW_ABORTED, FLOW_UNREPLIED), FLOW_EVICTED_NEW)
    flow[0] = _insert(
        self, original, hash, reply, FLOW_HALF_OPEN if begins else FLOW_UNREPLIED, backend_slot,
        now_ms,
    )
    return FP_OK


cdef int flows_adopt(
    flows_t *self, const flow_key_t *original, uint64_t hash, const flow_key_t *reply,
    uint8_t state, uint16_t backend_slot, uint64_t now_ms, flow_t **flow,
) noexcept nogil:
    flow[0] = NULL
    if not FLOW_CLOSED <= state < FLOW_STATES or _is_there(self, original, hash, reply):
        return FP_BAD
    if self.counters.n_confirmed >= self.confirmed_max:
        return FP_FULL
    flow[0] = _insert(self, original, hash, reply, state, backend_slot, now_ms)
    return FP_OK


cdef void _enter_state(
    flows_t *self, flow_t *flow, uint8_t state, uint64_t now_ms
) noexcept nogil:
    cdef bint was_confirmed = flow_is_confirmed(flow)
    if state >= FLOW_CLOSED and not was_confirmed:
        if self.counters.n_confirmed >= self.confirmed_max:
            _evict_confirmed(self)
    _unlink(self, flow)
    flow.state = state
    flow.seen_ms = now_ms
    _link(self, flow, _number(self, flow))
    if flow_is_confirmed(flow) != was_confirmed:
        _count_kind(self, was_confirmed, -1)
        _count_kind(self, not was_confirmed, 1)


cdef int flows_seen(
    flows_t *self, flow_t *flow, int way, const tcp_seen_t *tcp, uint64_t now_ms
) noexcept nogil:
    cdef bint was_carried = flow_is_carried(flow)
    cdef uint8_t state = flow_state_after(flow, way, tcp, now_ms)
    if state != flow.state:
        _enter_state(self, flow, state, now_ms)
        if flow_is_carried(flow) != was_carried:
            return FLOW_TO_RECALL if was_carried else FLOW_TO_CARRY
    elif now_ms >= flow.seen_ms + REFRESH_MS and state != FLOW_CLOSED and state != FLOW_ABORTED:
        _renew(self, flow, now_ms)          # after a reset nothing is to be waited for
    return FLOW_STAYS


# ---- all of them ----

cdef flow_t *flows_next(flows_t *self, uint32_t *cursor) noexcept nogil:
    cdef uint32_t last = self.flows.n_fresh
    cdef uint32_t number = cursor[0] + 1
    cdef uint64_t word
    while number <= last:
        word = self.used[number // WORD_BITS] >> (number % WORD_BITS)
        if word != 0:
            number += <uint32_t>count_zeros(word)
            cursor[0] = number
            return _flow(self, number)
        number += WORD_BITS - number % WORD_BITS
    cursor[0] = last
    return NULL
