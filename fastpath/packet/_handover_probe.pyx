"""Python's way into flows that are handed over, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect

from fastpath.forward_tables cimport ForwardTables
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_t
from fastpath.packet.flow cimport flow_key_t, flow_use_t
from fastpath.packet.flow_record cimport (
    RECORD_SIZE as _RECORD_SIZE, flow_record_read, flow_record_t, flow_record_write,
)
from fastpath.packet.flow_states cimport flow_t
from fastpath.packet.flows cimport flows_find, flows_hash, flows_uses
from fastpath.packet.forwarder cimport (
    forwarder_free, forwarder_init, forwarder_pick_up, forwarder_t,
)
from fastpath.packet.handover cimport (
    ADOPT_COUNT, HANDOVER_ADOPT, HANDOVER_DONE, HANDOVER_END, HANDOVER_EXPORT, handover_t,
    handover_turn,
)

from fastpath.forward_tables import compile as compile_tables

RECORD_SIZE = _RECORD_SIZE


cdef enum:
    EDGE_SIZE = 1 << 20

cdef uint8_t *_edge = NULL


cdef uint8_t *_at_the_edge(size_t size) except NULL:
    """Room right before memory that nobody may touch, good until the next one."""
    global _edge
    if size > EDGE_SIZE:
        raise ValueError(f"{size} bytes, {EDGE_SIZE} at most")
    if _edge == NULL:
        _edge = <uint8_t *>mmap(NULL, 2 * EDGE_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>_edge == <void *>-1 or mprotect(_edge + EDGE_SIZE, EDGE_SIZE, PROT_NONE) != 0:
            raise MemoryError
    return _edge + EDGE_SIZE - size


def read_again(vip, data):
    """What a record says, written again; None: no such flow can be."""
    cdef flow_record_t record
    cdef uint8_t *place = _at_the_edge(_RECORD_SIZE)
    memcpy(place, <const uint8_t *>(<bytes>data), _RECORD_SIZE)
    if flow_record_read(&record, <const uint8_t *>(<bytes>vip), place) != 0:
        return None
    memset(place, 0xa5, _RECORD_SIZE)
    flow_record_write(&record, place)
    return bytes(place[:_RECORD_SIZE])


cdef class Node:
    """A forwarder without an interface; time is what it is told. Needs CAP_NET_RAW."""

    cdef forwarder_t forwarder
    cdef handover_t handover
    cdef slab_t uses_memory
    cdef ForwardTables tables
    cdef bint made

    def __cinit__(self, forwards, ports, confirmed_max, own_mac):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = 7, 8
        if forwarder_init(&self.forwarder, hash_key, 16, confirmed_max, ports[0], ports[1]) != 0:
            raise OSError("no forwarder")
        self.made = True
        slab_init(
            &self.uses_memory, 1, flows_uses(&self.forwarder.flows) * <uint32_t>sizeof(flow_use_t)
        )
        self.forwarder.flows.uses = <flow_use_t *>slab_get(&self.uses_memory)
        self.forwarder.outlet.interface = 1
        self.forwarder.outlet.mtu = 1500
        memcpy(self.handover.own_mac, <const uint8_t *>(<bytes>own_mac), 6)
        self.publish(forwards)

    def __dealloc__(self):
        if self.made:
            forwarder_free(&self.forwarder)
        slab_free(&self.uses_memory)

    def publish(self, forwards):
        services = {each.name: i for i, each in enumerate(forwards)}
        names = [(each.name, target.name) for each in forwards for target in each.targets]
        backends = {name: i for i, name in enumerate(names)}
        tables = compile_tables(forwards, services, backends, 1, None)
        forwarder_pick_up(&self.forwarder, (<ForwardTables>tables).c)
        self.tables = tables

    def adopt(self, vip, records, now_ms):
        """(What became of them, in the order of verdicts.ADOPTED; turns that it took.)"""
        cdef uint8_t *place = _at_the_edge(len(records))
        memcpy(place, <const uint8_t *>(<bytes>records), len(records))
        before = [self.handover.adopted[i] for i in range(ADOPT_COUNT)]
        turns = self._do(HANDOVER_ADOPT, vip, place, len(records) // _RECORD_SIZE, now_ms)
        return [self.handover.adopted[i] - before[i] for i in range(ADOPT_COUNT)], turns

    def export(self, vip, room, now_ms):
        """(The records, turns.)"""
        cdef uint8_t *place = _at_the_edge(room * _RECORD_SIZE)
        turns = self._do(HANDOVER_EXPORT, vip, place, room, now_ms)
        return bytes(place[:self.handover.n_done * <size_t>_RECORD_SIZE]), turns

    def end(self, vip, now_ms):
        self._do(HANDOVER_END, vip, NULL, 0, now_ms)
        return self.handover.n_done

    cdef int _do(self, uint64_t command, bytes vip, uint8_t *records, uint32_t n, uint64_t now_ms):
        turns = 1
        self.forwarder.now_ms = now_ms
        memcpy(self.handover.vip, <const uint8_t *>vip, 16)
        self.handover.records = records
        self.handover.n = n
        self.handover.cursor = self.handover.n_done = 0
        self.handover.state = command
        while handover_turn(&self.handover, &self.forwarder):
            turns += 1
        if self.handover.state != HANDOVER_DONE:
            raise AssertionError("not done")
        return turns

    def use(self, key, last_ns):
        """What the kernel does when it has carried a packet with that key of 40 bytes."""
        cdef int way = 0
        cdef flow_t *flow = self._find(key, &way)
        self.forwarder.flows.uses[flow.ways[way].rewrite.use].last_ns = last_ns

    def rewrites(self, key):
        """Of each way: (new source, destination, their ports as bytes, MACs from and to)."""
        cdef int way = 0
        cdef flow_t *flow = self._find(key, &way)
        return [_rewrite(flow, i) for i in range(flow.n_ways)]

    cdef flow_t *_find(self, bytes key, int *way) except NULL:
        cdef flow_key_t wanted
        memcpy(&wanted, <const uint8_t *>key, sizeof(flow_key_t))
        flow = flows_find(
            &self.forwarder.flows, &wanted, flows_hash(&self.forwarder.flows, &wanted), way
        )
        if flow == NULL:
            raise KeyError(key)
        return flow


cdef tuple _rewrite(flow_t *flow, int way):
    rewrite = &flow.ways[way].rewrite
    ports = (<uint8_t *>&rewrite.source_port)[:2], (<uint8_t *>&rewrite.destination_port)[:2]
    return (
        rewrite.source[:16], rewrite.destination[:16], ports, rewrite.source_mac[:6],
        rewrite.destination_mac[:6],
    )
