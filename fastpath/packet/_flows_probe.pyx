"""Python's way into flows, fragments and NAT ports, for the tests; built with PIAGENT_PROBE=1 only.

Keys are 40 bytes, as flow_key_t; a flow goes by its original one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from fastpath.hashing.bits cimport draw64
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_t
from fastpath.packet.flow cimport flow_key_t, flow_use_t
from fastpath.packet.flow_states cimport (
    ASSURED_MS as _ASSURED_MS, FLOW_STATES as _FLOW_STATES, REVIVED_MS as _REVIVED_MS,
    SYN_AGAIN_MS as _SYN_AGAIN_MS, WAY_ORIGINAL, flow_patience_ms, flow_t, tcp_seen_t,
)
from fastpath.packet.flows cimport (
    FLOW_ENDS as _FLOW_ENDS, REFRESH_MS as _REFRESH_MS, flows_add, flows_admit, flows_adopt,
    flows_find, flows_first_of, flows_free, flows_give_way, flows_hash, flows_init, flows_next,
    flows_next_of, flows_remove, flows_remove_backend, flows_seen, flows_sweep, flows_t,
    flows_uses,
)
from fastpath.packet.fragments cimport (
    FRAGMENT_MS as _FRAGMENT_MS, FRAGMENT_WAYS as _FRAGMENT_WAYS, fragment_key_t, fragments_add,
    fragments_find, fragments_free, fragments_init, fragments_t,
)
from fastpath.packet.nat_ports cimport (
    PORT_REST_MS as _PORT_REST_MS, PORT_SPAN_MS as _PORT_SPAN_MS, nat_ports_claim, nat_ports_free,
    nat_ports_give, nat_ports_init, nat_ports_t, nat_ports_take,
)
from fastpath.sys_linux cimport htons, ntohs

ASSURED_MS, REVIVED_MS, SYN_AGAIN_MS = _ASSURED_MS, _REVIVED_MS, _SYN_AGAIN_MS
REFRESH_MS, FLOW_STATES, FLOW_ENDS = _REFRESH_MS, _FLOW_STATES, _FLOW_ENDS
FRAGMENT_MS, FRAGMENT_WAYS = _FRAGMENT_MS, _FRAGMENT_WAYS
PORT_REST_MS, PORT_SPAN_MS = _PORT_REST_MS, _PORT_SPAN_MS
FLOW_SIZE = sizeof(flow_t)


cdef enum:
    ENDED_MAX = 4096


cdef struct ended_t:
    flow_key_t key
    int why


cdef struct log_t:
    ended_t ended[ENDED_MAX]
    uint32_t n


cdef void _note_end(void *owner, flow_t *flow, int why) noexcept nogil:
    cdef log_t *log = <log_t *>owner
    if log.n < ENDED_MAX:
        log.ended[log.n].key = flow.ways[WAY_ORIGINAL].key
        log.ended[log.n].why = why
        log.n += 1


cdef flow_key_t _key(bytes data) except *:
    cdef flow_key_t key
    if len(data) != sizeof(flow_key_t):
        raise ValueError(f"{len(data)} bytes")
    memcpy(&key, <const uint8_t *>data, sizeof(flow_key_t))
    return key


cdef bytes _name(const flow_t *flow):
    return (<const uint8_t *>&flow.ways[WAY_ORIGINAL].key)[:sizeof(flow_key_t)]


cdef class Flows:
    """A table; `uses`: with counters that the kernel would write."""

    cdef flows_t flows
    cdef log_t log
    cdef slab_t uses_memory

    def __cinit__(self, new_max, confirmed_max, *, secret=0, uses=False, new_per_s=0):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = secret, 1
        code = flows_init(&self.flows, new_max, confirmed_max, hash_key)
        if code != 0:
            raise MemoryError(code)
        self.flows.ended = _note_end
        self.flows.owner = &self.log
        self.flows.new_per_s = new_per_s
        if uses:
            slab_init(&self.uses_memory, flows_uses(&self.flows), sizeof(flow_use_t))
            self.flows.uses = <flow_use_t *>self.uses_memory.memory

    def __dealloc__(self):
        flows_free(&self.flows)
        slab_free(&self.uses_memory)

    cdef flow_t *_find(self, bytes data, int *way) except? NULL:
        cdef flow_key_t key = _key(data)
        return flows_find(&self.flows, &key, flows_hash(&self.flows, &key), way)

    cdef flow_t *_have(self, bytes data, int *way) except NULL:
        cdef flow_t *flow = self._find(data, way)
        if flow == NULL:
            raise KeyError(data)
        return flow

    def find(self, key):
        """(original key, way), or None."""
        cdef int way = 0
        cdef flow_t *flow = self._find(key, &way)
        return (_name(flow), way) if flow != NULL else None

    def look(self, key):
        """(state, seen_ms, backend, uses), of a flow that is there."""
        cdef int way = 0
        cdef flow_t *flow = self._have(key, &way)
        uses = [flow.ways[i].rewrite.use for i in range(flow.n_ways)]
        return flow.state, flow.seen_ms, flow.backend_slot, uses

    def admit(self, key, nat, flags, now_ms):
        cdef int way = 0
        cdef flow_t *flow = self._find(key, &way)
        return flows_admit(&self.flows, flow, way, nat, key[36], flags, now_ms)

    def add(self, original, reply, flags, backend, now_ms):
        cdef flow_key_t first = _key(original)
        cdef flow_key_t second
        cdef flow_t *flow = NULL
        if reply is not None:
            second = _key(reply)
        return flows_add(
            &self.flows, &first, flows_hash(&self.flows, &first),
            &second if reply is not None else NULL, flags, backend, now_ms, &flow,
        )

    def adopt(self, original, reply, state, backend, now_ms):
        cdef flow_key_t first = _key(original)
        cdef flow_key_t second = _key(reply)
        cdef flow_t *flow = NULL
        return flows_adopt(
            &self.flows, &first, flows_hash(&self.flows, &first), &second, state, backend, now_ms,
            &flow,
        )

    def seen(self, key, tcp, now_ms):
        """`tcp`: (flags, sequence, acknowledgment), or None."""
        cdef int way = 0
        cdef flow_t *flow = self._have(key, &way)
        cdef tcp_seen_t segment
        if tcp is None:
            return flows_seen(&self.flows, flow, way, NULL, now_ms)
        segment.flags, segment.sequence, segment.acknowledgment = tcp
        return flows_seen(&self.flows, flow, way, &segment, now_ms)

    def remove(self, key, why):
        cdef int way = 0
        flows_remove(&self.flows, self._have(key, &way), why)

    def sweep(self, now_ms, limit):
        return flows_sweep(&self.flows, now_ms, limit)

    def remove_backend(self, slot, why, limit):
        return flows_remove_backend(&self.flows, slot, why, limit)

    def give_way(self, slot, protocol, limit):
        return flows_give_way(&self.flows, slot, protocol, limit)

    def use(self, key, last_ns):
        """What the kernel does when it has carried a packet with that key."""
        cdef int way = 0
        cdef flow_t *flow = self._have(key, &way)
        self.flows.uses[flow.ways[way].rewrite.use].last_ns = last_ns

    def last_uses(self, key):
        """What of the kernel's use is known of each way."""
        cdef int way = 0
        cdef flow_t *flow = self._have(key, &way)
        return [self.flows.uses[flow.ways[i].rewrite.use].last_ns for i in range(flow.n_ways)]

    def order(self, state):
        """The flows of a state, the newest first."""
        cdef uint32_t number = self.flows.lists[state].newest
        cdef flow_t *flow
        names = []
        while number != 0:
            flow = <flow_t *>(
                self.flows.flows.memory + <size_t>(number - 1) * self.flows.flows.stride
            )
            names.append(_name(flow))
            number = flow.older
        return names

    def next(self, cursor):
        """(original key or None, the next cursor)."""
        cdef uint32_t at = cursor
        cdef flow_t *flow = flows_next(&self.flows, &at)
        return (_name(flow) if flow != NULL else None, at)

    def of_backend(self, slot):
        cdef flow_t *flow = flows_first_of(&self.flows, slot)
        names = []
        while flow != NULL:
            names.append(_name(flow))
            flow = flows_next_of(&self.flows, flow)
        return names

    def count_of(self, slot):
        return self.flows.backends[slot].n

    def counters(self):
        """(added, new, confirmed, ended by reason)."""
        counters = &self.flows.counters
        ended = [counters.ended[i] for i in range(_FLOW_ENDS)]
        return counters.added, counters.n_new, counters.n_confirmed, ended

    def ended(self):
        """(original key, why) of those that have ended since it was asked last."""
        cdef uint32_t i
        log = [
            ((<const uint8_t *>&self.log.ended[i].key)[:sizeof(flow_key_t)], self.log.ended[i].why)
            for i in range(self.log.n)
        ]
        self.log.n = 0
        return log

    @property
    def memory(self):
        """Bytes set aside, and those of the hash table in it."""
        flows = &self.flows
        slots = flows.slots_memory.memory_size
        return flows.flows.memory_size + slots + flows.used_memory.memory_size, slots


def patience_ms(state):
    cdef flow_t flow
    memset(&flow, 0, sizeof(flow_t))
    flow.state = state
    return flow_patience_ms(&flow)


cdef class Fragments:
    """Ports by (source, destination, identification, protocol): 16, 16, 4 and 1 bytes."""

    cdef fragments_t fragments

    def __cinit__(self, capacity, secret=0):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = secret, 1
        if fragments_init(&self.fragments, capacity, hash_key) != 0:
            raise MemoryError

    def __dealloc__(self):
        fragments_free(&self.fragments)

    cdef fragment_key_t _key(self, key) except *:
        cdef fragment_key_t result
        cdef bytes data = b"".join(key) + bytes(3)
        if len(data) != sizeof(fragment_key_t):
            raise ValueError(f"{len(data)} bytes")
        memcpy(&result, <const uint8_t *>data, sizeof(fragment_key_t))
        return result

    def add(self, key, ports, now_ms):
        cdef fragment_key_t made = self._key(key)
        fragments_add(&self.fragments, &made, ports[0], ports[1], now_ms)

    def find(self, key, now_ms):
        """The ports, or the code."""
        cdef fragment_key_t made = self._key(key)
        cdef uint16_t source = 0, destination = 0
        code = fragments_find(&self.fragments, &made, &source, &destination, now_ms)
        if code != 0:
            return code
        return source, destination

    @property
    def n_sets(self):
        return self.fragments.set_mask + 1

    @property
    def hash_key(self):
        return self.fragments.hash_key[0], self.fragments.hash_key[1]


cdef class NatPorts:
    """Ports towards peers, which are reply keys whose destination port does not count."""

    cdef nat_ports_t ports

    def __cinit__(self, first, last, worker=0, n_workers=1, n_pools=8, secret=0):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = secret, 1
        code = nat_ports_init(
            &self.ports, first, last, worker, n_workers, n_pools, hash_key
        )
        if code != 0:
            raise ValueError(code)

    def __dealloc__(self):
        nat_ports_free(&self.ports)

    def take(self, peer, hash, now_ms):
        """The port, or the code."""
        cdef flow_key_t key = _key(peer)
        code = nat_ports_take(&self.ports, &key, hash, now_ms)
        return ntohs(key.destination_port) if code == 0 else code

    def claim(self, peer, port, now_ms):
        cdef flow_key_t key = _key(peer)
        key.destination_port = htons(port)
        return nat_ports_claim(&self.ports, &key, now_ms)

    def give(self, peer, port, silent_ms, may_hurry, now_ms):
        cdef flow_key_t key = _key(peer)
        key.destination_port = htons(port)
        nat_ports_give(&self.ports, &key, silent_ms, may_hurry, now_ms)

    @property
    def n_ports(self):
        return self.ports.n_ports


# ---- measuring ----

cdef flow_key_t _drawn(uint64_t number, bint reply) noexcept nogil:
    """A key of IPv4 that nothing else has."""
    cdef flow_key_t key
    cdef uint64_t word = draw64(number, 1 + reply)
    memset(&key, 0, sizeof(key))
    key.source[10] = key.source[11] = key.destination[10] = key.destination[11] = 0xff
    memcpy(key.source + 12, &number, 4)
    memcpy(key.destination + 12, &word, 4)
    key.source_port = <uint16_t>(word >> 32)
    key.destination_port = <uint16_t>(word >> 48)
    key.protocol = 17
    return key


cdef double _now_s() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <double>now.tv_sec + 1e-9 * <double>now.tv_nsec


def measure(capacity, n_flows, nat, n_lookups):
    """Nanoseconds of an insert, a hit and a miss, each with hashing; of hashing alone.

    The keys are made beforehand; they are looked up in an order that no cache foresees.
    """
    cdef uint64_t hash_key[2]
    cdef flows_t flows
    cdef slab_t memory
    cdef flow_key_t *keys
    cdef flow_key_t *replies
    cdef flow_key_t *others
    cdef flow_key_t *key
    cdef flow_t *flow = NULL
    cdef uint32_t i, n = n_flows, lookups = n_lookups, found = 0
    cdef uint64_t sum = 0
    cdef bint is_nat = nat
    cdef int way = 0
    cdef double start, inserted, hit, missed, hashed
    hash_key[0], hash_key[1] = 7, 8
    if flows_init(&flows, capacity, 1, hash_key) != 0 or slab_init(&memory, 3, n * 40) != 0:
        raise MemoryError
    keys = <flow_key_t *>slab_get(&memory)
    replies = <flow_key_t *>slab_get(&memory)
    others = <flow_key_t *>slab_get(&memory)
    for i in range(n):
        keys[i] = _drawn(i, False)
        replies[i] = _drawn(i, True)
        others[i] = _drawn(<uint64_t>i + n, False)
    with nogil:
        start = _now_s()
        for i in range(n):
            flows_add(
                &flows, &keys[i], flows_hash(&flows, &keys[i]), &replies[i] if is_nat else NULL,
                0, 0, 1000, &flow,
            )
        inserted = _now_s()
        for i in range(lookups):
            key = &keys[draw64(5, i) % n]
            found += flows_find(&flows, key, flows_hash(&flows, key), &way) != NULL
        hit = _now_s()
        for i in range(lookups):
            key = &others[draw64(5, i) % n]
            found += flows_find(&flows, key, flows_hash(&flows, key), &way) != NULL
        missed = _now_s()
        for i in range(lookups):
            sum += flows_hash(&flows, &keys[draw64(5, i) % n])
        hashed = _now_s()
    flows_free(&flows)
    slab_free(&memory)
    if found != lookups or sum == 0:
        raise AssertionError(f"{found} of {lookups} found")
    return (
        1e9 * (inserted - start) / n, 1e9 * (hit - inserted) / lookups,
        1e9 * (missed - hit) / lookups, 1e9 * (hashed - missed) / lookups,
    )
