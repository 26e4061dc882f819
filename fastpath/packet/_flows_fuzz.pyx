"""Flows, fragments and NAT ports, driven at random beside models; built with PIAGENT_PROBE=1 only.

The models are arrays that are searched from end to end. What state a packet leads to is not theirs:
they take it from the flow, and know what has to become of the table then.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_DONE, FP_OK, FP_PORTS
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory._fuzz cimport Fuzz
from fastpath.memory.slab cimport slab_free, slab_init, slab_t
from fastpath.packet.flow cimport flow_key_t, flow_use_t
from fastpath.packet.flow_states cimport (
    FLOW_ABORTED, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_STATES, FLOW_STREAM, FLOW_UNREPLIED,
    WAY_ORIGINAL, WAY_REPLY, flow_patience_ms, flow_t, tcp_seen_t,
)
from fastpath.packet.flows cimport (
    FLOW_DRAINED, FLOW_EVICTED_CONFIRMED, FLOW_EVICTED_NEW, FLOW_EXPIRED, FLOW_STAYS,
    FLOW_STOPPED, FLOW_TO_CARRY, FLOW_TO_RECALL, REFRESH_MS, flows_add, flows_find,
    flows_first_of, flows_free, flows_give_way, flows_hash, flows_init, flows_next, flows_next_of,
    flows_remove, flows_remove_backend, flows_seen, flows_sweep, flows_t, flows_uses,
)
from fastpath.packet.fragments cimport (
    FRAGMENT_MS, FRAGMENT_WAYS, fragment_key_t, fragments_add, fragments_find, fragments_free,
    fragments_init, fragments_t,
)
from fastpath.packet.nat_ports cimport (
    PORT_REST_MS, PORT_SPAN_MS, nat_ports_claim, nat_ports_free, nat_ports_give, nat_ports_init,
    nat_ports_t, nat_ports_take,
)
from fastpath.sys_linux cimport htons, ntohs


cdef enum:
    MANY = 64                   # of what a model counts one by one
    BACKENDS = 3
    NOBODY = -1
    NOT_OVER = -1
    TRIES = 16
    PORTS_MAX = 130


cdef struct known_t:            # the model's flow
    flow_t *flow                # NULL: there is none
    uint64_t seen_ms
    uint64_t used_ms            # by the kernel
    uint64_t order              # of what was moved up; the last one is the highest
    int state
    int ended                   # FLOW_EXPIRED, …; NOT_OVER


cdef void _flow_ended(void *owner, flow_t *flow, int why) noexcept nogil:
    (<known_t *>owner)[flow.ways[WAY_ORIGINAL].key.source[15]].ended = why


cdef class FlowsFuzz(Fuzz):
    """Against an array with the state and the last use of each; its index stands for the keys."""

    cdef flows_t flows
    cdef slab_t uses
    cdef known_t model[MANY]
    cdef uint64_t now_ms
    cdef uint64_t n_moved
    cdef int n_keys
    cdef uint32_t n_hashes      # few: many flows belong into one place of the hash table
    cdef uint32_t n_bits        # of milliseconds between two steps at most

    def __cinit__(self, *, seed, n_keys, n_hashes, n_bits, new_max, confirmed_max):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = seed, 1
        self.n_keys, self.n_hashes, self.n_bits = n_keys, n_hashes, n_bits
        self.now_ms = 1000000
        if n_keys > MANY or flows_init(&self.flows, new_max, confirmed_max, hash_key) != FP_OK:
            raise MemoryError
        if slab_init(&self.uses, flows_uses(&self.flows), sizeof(flow_use_t)) != FP_OK:
            raise MemoryError
        self.flows.uses = <flow_use_t *>self.uses.memory
        self.flows.ended = _flow_ended
        self.flows.owner = &self.model[0]
        for i in range(MANY):
            self.model[i].ended = NOT_OVER

    def __dealloc__(self):
        flows_free(&self.flows)
        slab_free(&self.uses)

    # -- keys --

    cdef flow_key_t _key(self, int i, int way) noexcept nogil:
        cdef flow_key_t key
        memset(&key, 0, sizeof(key))
        key.source[15] = <uint8_t>i
        key.destination[15] = <uint8_t>(200 + way)
        key.source_port = <uint16_t>(i // 8)
        key.protocol = 6 if i % 4 < 2 else 17
        return key

    cdef bint _is_nat(self, int i) noexcept nogil:
        return i % 2

    cdef uint64_t _hash(self, int i) noexcept nogil:
        """Of the original key: neighbours, and many alike."""
        return <uint64_t>(i % self.n_hashes) + (<uint64_t>(i // 4) << 32) + (i % 3 << 20)

    cdef flow_t *_find(self, int i, int way) noexcept nogil:
        cdef flow_key_t key = self._key(i, way)
        cdef int found_way = NOBODY
        cdef uint64_t hash = flows_hash(&self.flows, &key) if way else self._hash(i)
        cdef flow_t *flow = flows_find(&self.flows, &key, hash, &found_way)
        self.expect(flow == NULL or found_way == way, b"by which way it is found")
        return flow

    # -- steps --

    cdef void step(self) noexcept nogil:
        cdef uint32_t what = self.roll(64)
        cdef int i = self.roll(self.n_keys)
        self.now_ms += self.roll_bits(self.n_bits)
        if what < 46:
            self._packet(i)
        elif what < 52:
            self._kernel(i)
        elif what < 56:
            self._sweep()
        elif what < 61:
            if self.model[i].flow != NULL:
                flows_remove(&self.flows, self.model[i].flow, FLOW_STOPPED)
                self._gone(i, FLOW_STOPPED)
        elif what < 62:
            self._give_way(self.roll(BACKENDS), 6 if self.roll(2) else 17)
        else:
            self._backend_gone(self.roll(BACKENDS))
        self._compare(i)
        if what % 16 == 0:
            self._compare_all()

    cdef tcp_seen_t _segment(self) noexcept nogil:
        cdef tcp_seen_t segment
        cdef uint32_t what = self.roll(16)
        segment.sequence = 7
        segment.acknowledgment = 8
        # SYN, SYN and ACK, FIN and ACK, RST, or ACK alone.
        segment.flags = (
            0x02 if what < 2 else 0x12 if what < 5 else 0x11 if what < 7 else 0x04 if what == 7
            else 0x10
        )
        return segment

    cdef void _packet(self, int i) noexcept nogil:
        cdef known_t *known = &self.model[i]
        cdef tcp_seen_t segment = self._segment()
        cdef int way = self.roll(2) if self._is_nat(i) else 0
        cdef int before, result
        if known.flow == NULL:
            self._add(i, segment.flags)
            return
        before = known.state
        result = flows_seen(
            &self.flows, known.flow, way, &segment if i % 4 < 2 else NULL, self.now_ms
        )
        if known.flow.state == before:
            self.expect(result == 0, b"what stays as it is")
            if (
                self.now_ms - known.seen_ms >= REFRESH_MS
                and before != FLOW_CLOSED and before != FLOW_ABORTED
            ):
                self._move(known, self.now_ms)
            return
        self._expect_carried(result, before >= FLOW_ESTABLISHED, known.flow.state)
        if (
            before < FLOW_CLOSED <= known.flow.state
            and self._n(FLOW_CLOSED, FLOW_STREAM) == self.flows.confirmed_max
        ):
            self._evict(FLOW_CLOSED, FLOW_STREAM, FLOW_EVICTED_CONFIRMED)
        known.state = known.flow.state
        self._move(known, self.now_ms)

    cdef void _expect_carried(self, int result, bint was, int state) noexcept nogil:
        cdef bint may = state >= FLOW_ESTABLISHED
        self.expect(
            result == (FLOW_STAYS if may == was else FLOW_TO_CARRY if may else FLOW_TO_RECALL),
            b"what to carry",
        )

    cdef void _add(self, int i, uint8_t flags) noexcept nogil:
        cdef known_t *known = &self.model[i]
        cdef flow_key_t original = self._key(i, WAY_ORIGINAL)
        cdef flow_key_t reply = self._key(i, WAY_REPLY)
        cdef int result = flows_add(
            &self.flows, &original, self._hash(i), &reply if self._is_nat(i) else NULL, flags,
            <uint16_t>(i % BACKENDS), self.now_ms, &known.flow,
        )
        self.expect(result == FP_OK and known.flow != NULL, b"there is always room")
        if known.flow == NULL:
            return
        known.state = known.flow.state
        if self._n(FLOW_ABORTED, FLOW_UNREPLIED) > self.flows.new_max:
            self._evict(FLOW_ABORTED, FLOW_UNREPLIED, FLOW_EVICTED_NEW, i)
        known.used_ms = 0
        self._move(known, self.now_ms)
        self.expect(flows_add(
            &self.flows, &original, self._hash(i), NULL, 0, 0, self.now_ms, &known.flow
        ) == FP_BAD, b"no key is there twice")
        known.flow = self._find(i, WAY_ORIGINAL)

    cdef void _kernel(self, int i) noexcept nogil:
        cdef known_t *known = &self.model[i]
        cdef int way = self.roll(2) if self._is_nat(i) else 0
        if known.flow != NULL:
            known.used_ms = self.now_ms
            self.flows.uses[known.flow.ways[way].rewrite.use].last_ns = self.now_ms * 1000000

    cdef void _sweep(self) noexcept nogil:
        cdef uint32_t limit = 1 + self.roll(8)
        cdef uint32_t turns = 0
        cdef int state
        while flows_sweep(&self.flows, self.now_ms, limit) != FP_DONE and turns < 2 * MANY:
            turns += 1
        self.expect(turns < 2 * MANY, b"a sweep comes to an end")
        for state in range(<int>FLOW_STATES):
            self._age(state)

    cdef void _age(self, int state) noexcept nogil:
        cdef flow_t flow
        cdef int i = self._oldest(state, NOBODY)
        flow.state = <uint8_t>state
        while (
            i != NOBODY
            and self.model[i].seen_ms + flow_patience_ms(&flow) + REFRESH_MS <= self.now_ms
        ):
            if not self._kernel_renews(&self.model[i]):
                self._gone(i, FLOW_EXPIRED)
            i = self._oldest(state, NOBODY)

    cdef void _backend_gone(self, uint16_t slot) noexcept nogil:
        cdef int i
        cdef uint32_t left = 0
        for i in range(self.n_keys):
            left += self.model[i].flow != NULL and i % BACKENDS == slot
        while left > 0:
            left -= min(left, 2)
            self.expect(
                flows_remove_backend(&self.flows, slot, FLOW_DRAINED, 2) == left,
                b"how many are left of a backend's",
            )
        for i in range(self.n_keys):
            if i % BACKENDS == slot and self.model[i].flow != NULL:
                self._gone(i, FLOW_DRAINED)

    cdef void _give_way(self, uint16_t slot, uint8_t protocol) noexcept nogil:
        cdef known_t *known
        cdef int longest = NOBODY
        cdef int i
        for i in range(self.n_keys):
            known = &self.model[i]
            if (
                known.flow != NULL and known.state <= FLOW_CLOSED and self._is_nat(i)
                and i % BACKENDS == slot and (i % 4 < 2) == (protocol == 6)
                and (longest == NOBODY or self._gives_way_before(i, longest))
            ):
                longest = i
        self.expect(
            flows_give_way(&self.flows, slot, protocol, MANY) == (longest != NOBODY),
            b"whether one gives way",
        )
        if longest != NOBODY:
            self._gone(longest, (
                FLOW_EVICTED_NEW if self.model[longest].state < FLOW_CLOSED
                else FLOW_EVICTED_CONFIRMED
            ))

    cdef bint _gives_way_before(self, int one, int other) noexcept nogil:
        cdef known_t *known = &self.model[one]
        cdef known_t *than = &self.model[other]
        if known.seen_ms != than.seen_ms:
            return known.seen_ms < than.seen_ms
        if known.state != than.state:
            return known.state < than.state
        return known.order < than.order

    # -- the model --

    cdef void _move(self, known_t *known, uint64_t seen_ms) noexcept nogil:
        self.n_moved += 1
        known.order = self.n_moved
        known.seen_ms = seen_ms

    cdef bint _kernel_renews(self, known_t *known) noexcept nogil:
        if known.state < FLOW_ESTABLISHED or known.used_ms <= known.seen_ms:
            return False
        self._move(known, known.used_ms)
        return True

    cdef uint32_t _n(self, int first, int last) noexcept nogil:
        cdef int i
        cdef uint32_t n = 0
        for i in range(self.n_keys):
            n += self.model[i].flow != NULL and first <= self.model[i].state <= last
        return n

    cdef int _oldest(self, int state, int but) noexcept nogil:
        cdef int i
        cdef int oldest = NOBODY
        for i in range(self.n_keys):
            if i != but and self.model[i].flow != NULL and self.model[i].state == state:
                if oldest == NOBODY or self.model[i].order < self.model[oldest].order:
                    oldest = i
        return oldest

    cdef int _victim(self, int first, int last, int but) noexcept nogil:
        cdef int state, one, other
        for state in range(first, last - 1):
            if self._oldest(state, but) != NOBODY:
                return self._oldest(state, but)
        one = self._oldest(last - 1, but)
        other = self._oldest(last, but)
        if one == NOBODY or other == NOBODY:
            return max(one, other)
        return other if self.model[other].seen_ms < self.model[one].seen_ms else one

    cdef void _evict(self, int first, int last, int why, int but=NOBODY) noexcept nogil:
        cdef int i = self._victim(first, last, but)
        cdef int tries = TRIES
        while tries > 0 and self._kernel_renews(&self.model[i]):
            i = self._victim(first, last, but)
            tries -= 1
        self._gone(i, why)

    cdef void _gone(self, int i, int why) noexcept nogil:
        self.expect(self.model[i].ended == why, b"who ended, and why")
        self.model[i].flow = NULL
        self.model[i].ended = NOT_OVER

    # -- what can be compared --

    cdef flow_t *_numbered(self, uint32_t number) noexcept nogil:
        return <flow_t *>(
            self.flows.flows.memory + <size_t>(number - 1) * self.flows.flows.stride
        )

    cdef void _compare(self, int i) noexcept nogil:
        cdef known_t *known = &self.model[i]
        self.expect(self._find(i, WAY_ORIGINAL) == known.flow, b"who is found")
        self.expect(
            self._find(i, WAY_REPLY) == (known.flow if self._is_nat(i) else NULL),
            b"who is found by the reply",
        )
        if known.flow != NULL:
            self.expect(known.flow.state == known.state, b"its state")
            self.expect(known.flow.seen_ms == known.seen_ms, b"when it was seen")
        self.expect(
            <uint64_t>self.flows.counters.n_new == self._n(FLOW_ABORTED, FLOW_UNREPLIED),
            b"how many are new",
        )
        self.expect(
            <uint64_t>self.flows.counters.n_confirmed == self._n(FLOW_CLOSED, FLOW_STREAM),
            b"how many are confirmed",
        )

    cdef void _compare_all(self) noexcept nogil:
        cdef flow_t *flow
        cdef uint32_t cursor = 0, n = 0, n_of_backends = 0
        cdef int state, i
        for i in range(self.n_keys):
            self.expect(self.model[i].ended == NOT_OVER, b"nobody ended for nothing")
            self.expect(self._find(i, WAY_ORIGINAL) == self.model[i].flow, b"all are found")
        for state in range(<int>FLOW_STATES):
            self._compare_order(state)
        while True:
            flow = flows_next(&self.flows, &cursor)
            if flow == NULL or n > MANY:
                break
            i = flow.ways[WAY_ORIGINAL].key.source[15]
            self.expect(self.model[i].flow == flow, b"all are those that there are")
            n += 1
        self.expect(n == self._n(FLOW_ABORTED, FLOW_STREAM), b"how many all are")
        for i in range(<int>BACKENDS):
            flow = flows_first_of(&self.flows, <uint16_t>i)
            while flow != NULL and n_of_backends <= n:
                n_of_backends += 1
                flow = flows_next_of(&self.flows, flow)
        self.expect(n == n_of_backends, b"each has one backend")

    cdef void _compare_order(self, int state) noexcept nogil:
        cdef uint64_t order = <uint64_t>-1
        cdef uint32_t number = self.flows.lists[state].newest
        cdef uint32_t n = 0
        cdef int i
        while number != 0 and n <= MANY:
            i = self._numbered(number).ways[WAY_ORIGINAL].key.source[15]
            self.expect(self.model[i].order < order, b"in order of use")
            order = self.model[i].order
            number = self._numbered(number).older
            n += 1
        self.expect(n == self._n(state, state), b"how many there are of a state")


cdef struct packet_t:           # the model's
    uint64_t first_ms           # when its first fragment came; 0: it has not
    uint16_t port


cdef uint16_t _other(uint16_t port) noexcept nogil:
    """The other port of a packet with this one."""
    return port ^ 0xffff


cdef class FragmentsFuzz(Fuzz):
    """Against an array of when first fragments came; of a set the latest ones are known."""

    cdef fragments_t fragments
    cdef packet_t model[MANY]
    cdef uint64_t hash_key[2]
    cdef uint64_t now_ms
    cdef int n_keys
    cdef uint32_t n_bits

    def __cinit__(self, *, seed, n_keys, capacity, n_bits):
        self.hash_key[0], self.hash_key[1] = seed, 1
        self.n_keys, self.n_bits = n_keys, n_bits
        self.now_ms = 1000000
        if n_keys > MANY or fragments_init(&self.fragments, capacity, self.hash_key) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        fragments_free(&self.fragments)

    cdef fragment_key_t _key(self, int i) noexcept nogil:
        cdef fragment_key_t key
        memset(&key, 0, sizeof(key))
        key.source[15] = <uint8_t>(i % 2)
        key.destination[15] = 7
        key.identification = <uint32_t>(i // 4)
        key.protocol = 17 if i // 2 % 2 else 6
        return key

    cdef uint64_t _set(self, int i) noexcept nogil:
        cdef fragment_key_t key = self._key(i)
        return siphash13(
            self.hash_key[0], self.hash_key[1], <const uint8_t *>&key, sizeof(key)
        ) & self.fragments.set_mask

    cdef bint _is_known(self, int i) noexcept nogil:
        cdef int other
        cdef int newer = 0
        if self.model[i].first_ms == 0:
            return False
        for other in range(self.n_keys):
            newer += (
                self._set(other) == self._set(i)
                and self.model[other].first_ms > self.model[i].first_ms
            )
        return newer < FRAGMENT_WAYS and self.now_ms < self.model[i].first_ms + FRAGMENT_MS

    cdef void step(self) noexcept nogil:
        cdef int i = self.roll(self.n_keys)
        cdef fragment_key_t key = self._key(i)
        cdef uint16_t source = 1, destination = 1
        cdef int result
        self.now_ms += 1 + self.roll_bits(self.n_bits)
        if self.roll(3) == 0:
            self.model[i].first_ms = self.now_ms
            self.model[i].port = <uint16_t>self.roll(65536)
            fragments_add(
                &self.fragments, &key, self.model[i].port, _other(self.model[i].port),
                self.now_ms,
            )
        result = fragments_find(&self.fragments, &key, &source, &destination, self.now_ms)
        self.expect(
            result == (FP_OK if self._is_known(i) else FP_AGAIN), b"whether its ports are known"
        )
        self.expect(
            result != FP_OK
            or (source == self.model[i].port and destination == _other(self.model[i].port)),
            b"whose ports",
        )


cdef struct port_t:             # the model's
    uint64_t rests_ms           # since when; 0: it does not
    bint is_used
    bint may_hurry


cdef class NatPortsFuzz(Fuzz):
    """Against an array of who has which port, for two backends."""

    cdef nat_ports_t ports
    cdef port_t model[2][PORTS_MAX]
    cdef uint64_t now_ms
    cdef uint32_t n_ports
    cdef uint32_t n_bits
    cdef uint32_t gives         # of eight steps so many give one back, more or less

    def __cinit__(self, *, seed, n_ports, n_workers, n_bits):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = seed, 1
        self.n_ports, self.n_bits = n_ports, n_bits
        self.now_ms = 1000000
        if n_ports > PORTS_MAX or nat_ports_init(
            &self.ports, 10000, 10000 + n_ports * n_workers - 1, 0, n_workers, 3, hash_key
        ) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        nat_ports_free(&self.ports)

    cdef flow_key_t _key(self, int who, uint32_t at) noexcept nogil:
        cdef flow_key_t key
        memset(&key, 0, sizeof(key))
        key.source[15] = <uint8_t>who
        key.destination_port = htons(<uint16_t>(self.ports.first_port + at * self.ports.step))
        return key

    cdef void step(self) noexcept nogil:
        cdef int who = self.roll(2)
        cdef uint32_t at = self.roll(self.n_ports)
        if self.roll(100) == 0:
            self.gives = self.roll(9)
        self.now_ms += self.roll_bits(self.n_bits)
        self._rest(who)
        if self.roll(8) < self.gives:
            if self.model[who][at].is_used:
                self._give(who, at)
        elif self.roll(4) == 0:
            self._claim(who, at)
        else:
            self._take(who)

    cdef void _rest(self, int who) noexcept nogil:
        cdef uint32_t at
        cdef uint64_t free = self.now_ms // PORT_SPAN_MS - PORT_REST_MS // PORT_SPAN_MS
        for at in range(self.n_ports):
            if self.model[who][at].rests_ms // PORT_SPAN_MS < free:
                self.model[who][at].rests_ms = 0

    cdef void _give(self, int who, uint32_t at) noexcept nogil:
        cdef port_t *port = &self.model[who][at]
        cdef flow_key_t key = self._key(who, at)
        cdef uint64_t silent_ms = self.roll_bits(18)
        port.is_used = False
        port.may_hurry = self.roll(2)
        port.rests_ms = self.now_ms - silent_ms
        nat_ports_give(&self.ports, &key, silent_ms, port.may_hurry, self.now_ms)
        self._rest(who)

    cdef void _claim(self, int who, uint32_t at) noexcept nogil:
        cdef port_t *port = &self.model[who][at]
        cdef flow_key_t key = self._key(who, at)
        cdef int expected = FP_PORTS if port.is_used else FP_OK     # though it rests
        self.expect(
            nat_ports_claim(&self.ports, &key, self.now_ms) == expected,
            b"whether it can be claimed",
        )
        port.is_used = True
        port.may_hurry = False
        port.rests_ms = 0

    cdef uint32_t _expected(self, int who, uint32_t start, bint may_hurry) noexcept nogil:
        """The first from there on that is free or, if they say so, was reset; n_ports: none."""
        cdef uint32_t turn, at
        cdef port_t *port
        for turn in range(self.n_ports):
            at = (start + turn) % self.n_ports
            port = &self.model[who][at]
            if not port.is_used and (port.may_hurry if may_hurry else port.rests_ms == 0):
                return at
        return self.n_ports

    cdef void _take(self, int who) noexcept nogil:
        cdef flow_key_t key = self._key(who, 0)
        cdef uint64_t high = self.roll(<uint32_t>-1)
        cdef uint32_t start = <uint32_t>(high * self.n_ports >> 32)
        cdef uint32_t at = self._expected(who, start, False)
        cdef int result = nat_ports_take(&self.ports, &key, high << 32, self.now_ms)
        cdef bint is_none
        if at == self.n_ports:
            at = self._expected(who, start, True)
        is_none = at == self.n_ports
        self.expect(result == (FP_PORTS if is_none else FP_OK), b"whether one is left")
        if is_none:
            return
        self.expect(
            ntohs(key.destination_port) == self.ports.first_port + at * self.ports.step,
            b"which one",
        )
        self.model[who][at].is_used = True
        self.model[who][at].rests_ms = 0
