"""A forwarder to try frames on: the live one's code and tables, and nothing of it is touched."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_OK
from fastpath.forward_tables cimport ForwardTables
from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.packet.aim cimport aim_choose, aim_hash
from fastpath.packet.flow cimport flow_key_t
from fastpath.packet.flow_cache cimport FlowCache
from fastpath.packet.flow_map cimport FLOW_MAP_INTERFACES
from fastpath.packet.flow_states cimport flow_t
from fastpath.packet.flows cimport flows_find, flows_hash, flows_uses
from fastpath.packet.forwarder cimport (
    forwarder_flush, forwarder_free, forwarder_init, forwarder_pick_up, forwarder_t, forwarder_take,
)
from fastpath.packet.forwards cimport forward_t, forwards_find, target_t
from fastpath.packet.outcomes cimport FORWARD_SENT
from fastpath.packet.parse cimport PARSE_ICMP_ERROR, packet_parse, packet_t
from fastpath.packet.tap cimport TAP_FRAME_MAX, TAP_HEADROOM, TAP_TAILROOM, frame_t
from fastpath.packet.transmit cimport transmit_init_caught, transmit_t

import os
import time
from typing import NamedTuple

from fastpath.forward_tables import compile as compile_tables
from fastpath.forwards import LOOPBACK, check
from fastpath.packet.verdicts import FORWARDED, VERDICTS


cdef enum:
    _FLOWS = 64                 # of each kind
    _CAUGHT_MAX = 1 << 19       # bytes of what goes out between two looks; more is lost


class Out(NamedTuple):
    """A frame that would go out."""

    interface: int
    frame: bytes


class Taken(NamedTuple):
    """What became of a frame."""

    verdict: str
    kind: str
    forward: str | None
    key: bytes
    hash: int
    entry: int
    table: str | None
    backend: str | None
    mtu: int | None
    out: tuple


cdef struct _caught_t:
    uint8_t *bytes              # _CAUGHT_MAX: of each frame its interface, its size, itself; owned
    uint32_t used


cdef void _catch(void *owner, const transmit_t *waiting) noexcept nogil:
    cdef _caught_t *self = <_caught_t *>owner
    cdef uint32_t i, interface, size
    for i in range(waiting.n):
        interface = <uint32_t>waiting.targets[i].sll_ifindex
        size = <uint32_t>waiting.parts[i][1].iov_len
        if size + 8 > _CAUGHT_MAX - self.used:
            return
        memcpy(self.bytes + self.used, &interface, 4)
        memcpy(self.bytes + self.used + 4, &size, 4)
        memcpy(self.bytes + self.used + 8, waiting.parts[i][1].iov_base, size)
        self.used += size + 8


cdef class Trial:
    cdef forwarder_t *forwarder
    cdef _caught_t caught
    cdef ForwardTables tables
    cdef FlowCache cache
    cdef list forwards          # names, in the order of the tables
    cdef list targets           # likewise

    def __cinit__(self):
        self.forwarder = <forwarder_t *>calloc(1, sizeof(forwarder_t))
        self.caught.bytes = <uint8_t *>calloc(1, _CAUGHT_MAX)
        if self.forwarder == NULL or self.caught.bytes == NULL:
            raise MemoryError

    def __init__(
        self, forwards, *, hash_key, interface, mtu, ports=(49152, 57343), FlowCache cache=None
    ):
        cdef bytes key = bytes(hash_key)
        cdef uint64_t words[2]
        if len(key) != 16:
            raise ValueError(f"the hash key has {len(key)} bytes, not 16")
        if self.tables is not None:
            raise RuntimeError("the trial is set up already")
        memcpy(words, <const uint8_t *>key, 16)
        self._compile(tuple(forwards))
        if forwarder_init(self.forwarder, words, _FLOWS, _FLOWS, ports[0], ports[1]) != FP_OK:
            raise OSError(errno, "cannot set a forwarder up: " + os.strerror(errno))
        transmit_init_caught(&self.forwarder.outlet.transmit, _catch, &self.caught)
        self.forwarder.outlet.interface = interface
        self.forwarder.outlet.mtu = mtu
        self.forwarder.now_ms = time.monotonic_ns() // 1_000_000
        if cache is not None:
            self._use_cache(cache, forwards)
        forwarder_pick_up(self.forwarder, self.tables.c)

    def __dealloc__(self):
        if self.forwarder != NULL and self.forwarder.counters != NULL:
            forwarder_free(self.forwarder)
        free(self.forwarder)
        free(self.caught.bytes)

    cdef object _compile(self, tuple forwards):
        check(forwards)
        ordered = sorted(forwards, key=lambda forward: forward.place)
        places = [
            (each.name, target)
            for each in ordered
            for target in sorted([target.name for target in each.targets])
        ]
        self.forwards = [each.name for each in ordered]
        self.targets = [target for _, target in places]
        self.tables = compile_tables(
            forwards,
            {name: slot for slot, name in enumerate(self.forwards)},
            {place: slot for slot, place in enumerate(places)},
            1,
            None,
        )

    cdef object _use_cache(self, FlowCache cache, forwards):
        """Whose programs run by hand only, as if attached wherever these forwards lead."""
        cdef uint32_t i
        if cache.mode != "none":
            raise ValueError("the flow cache is somebody's: it is attached")
        if cache.map.n_uses < flows_uses(&self.forwarder.flows):
            raise ValueError("the flow cache has too few places to count in")
        wanted = {target.interface for each in forwards for target in each.targets}
        wanted.add(self.forwarder.outlet.interface)
        wanted = sorted(wanted - {0, LOOPBACK})
        cache.map.n_interfaces = min(len(wanted), <int>FLOW_MAP_INTERFACES)
        for i in range(cache.map.n_interfaces):
            cache.map.interfaces[i] = wanted[<int>i]
        self.cache = cache
        self.forwarder.map = &cache.map
        self.forwarder.flows.uses = cache.map.uses

    def take(self, bytes frame):
        cdef frame_t taken
        cdef packet_t packet
        cdef uint8_t *room
        cdef int kind, verdict
        if len(frame) > TAP_FRAME_MAX:
            raise ValueError(f"{len(frame)} bytes, {TAP_FRAME_MAX} at most")
        room = <uint8_t *>calloc(1, TAP_HEADROOM + len(frame) + TAP_TAILROOM)
        if room == NULL:
            raise MemoryError
        memset(&taken, 0, sizeof(taken))
        memset(&packet, 0, sizeof(packet))
        taken.data = room + TAP_HEADROOM
        taken.size = <uint32_t>len(frame)
        memcpy(taken.data, <const uint8_t *>frame, len(frame))
        self.caught.used = 0
        kind = packet_parse(taken.data, taken.size, &packet)
        verdict = forwarder_take(self.forwarder, &taken)
        forwarder_flush(self.forwarder)
        free(room)
        return self._told(kind, &packet, verdict)

    def wait(self, ms):
        self.forwarder.now_ms += <uint64_t>ms

    cdef object _told(self, int kind, const packet_t *packet, int verdict):
        cdef const flow_key_t *key = &packet.key
        cdef uint64_t hash = flows_hash(&self.forwarder.flows, key)
        cdef uint64_t asked = hash
        cdef const forward_t *forward = NULL
        cdef const target_t *target = NULL
        cdef flow_t *flow = NULL
        cdef int way = 0
        mtu = table = None
        if kind <= PARSE_ICMP_ERROR:
            forward = forwards_find(self.tables.c, key)
            flow = flows_find(&self.forwarder.flows, key, hash, &way)
        if forward != NULL:
            asked = aim_hash(forward, key, hash, self.forwarder.flows.hash_key)
            if forward.maglev != NULL:
                table = self._name(&forward.targets[forward.maglev[asked % MAGLEV_SIZE]])
        if flow != NULL:
            target = self.tables.c.target_of_slot[flow.backend_slot]
            mtu = flow.ways[way].rewrite.mtu
        elif forward != NULL and verdict == FORWARD_SENT:
            target = aim_choose(forward, key, hash, self.forwarder.flows.hash_key)
        return Taken(
            FORWARDED[verdict],
            VERDICTS[kind],
            None if forward == NULL else self.forwards[forward - self.tables.c.forwards],
            (<const uint8_t *>key)[:sizeof(flow_key_t)],
            asked,
            asked % MAGLEV_SIZE,
            table,
            self._name(target),
            mtu,
            self._out(),
        )

    cdef object _name(self, const target_t *target):
        return None if target == NULL else self.targets[target - self.tables.c.targets]

    cdef tuple _out(self):
        cdef uint32_t at = 0
        cdef uint32_t interface = 0
        cdef uint32_t size = 0
        found = []
        while at < self.caught.used:
            memcpy(&interface, self.caught.bytes + at, 4)
            memcpy(&size, self.caught.bytes + at + 4, 4)
            found.append(Out(interface, (self.caught.bytes + at + 8)[:size]))
            at += 8 + size
        return tuple(found)
