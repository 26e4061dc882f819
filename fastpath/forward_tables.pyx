"""Python's forwards -> the C tables that the forwarder reads; as fastpath.snapshot."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastpath.hashing.xxhash cimport xxh64
from fastpath.packet.forwards cimport forward_t, target_t
from fastpath.sys_linux cimport IPPROTO_TCP, IPPROTO_UDP, htons
from fastpath.table_parts cimport array_new, maglev_entries, ranges_put

from fastpath.forwards import HOWS, packed
from fastpath.prefixes import merged


cdef class ForwardTables:
    def __cinit__(self):
        self.maglev = {}
        self.c = <forwards_t *>calloc(1, sizeof(forwards_t))
        if self.c == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.c != NULL:
            free(self.c.forwards)
            free(self.c.targets)
            free(self.c)
        free(self.ranges)


def compile(forwards, services, backends, generation, ForwardTables previous):
    """Checked forwards -> ForwardTables.

    services: name -> slot; backends: (service, backend) -> slot; previous: the tables before.
    """
    cdef ForwardTables self = ForwardTables.__new__(ForwardTables)
    cdef range_t *next_range
    cdef Py_ssize_t i, n_targets = 0
    wanted = sorted(forwards, key=_place)
    self.c.generation = generation
    self.c.n = <uint32_t>len(wanted)
    self.c.forwards = <forward_t *>array_new(len(wanted), sizeof(forward_t))
    for each in wanted:
        self.c.n_targets += <uint32_t>len(each.targets)
    self.c.targets = <target_t *>array_new(self.c.n_targets, sizeof(target_t))
    ranges = [merged(each.allowed) for each in wanted]
    self.ranges = <range_t *>array_new(sum([len(each) for each in ranges]), sizeof(range_t))
    next_range = self.ranges
    for i, each in enumerate(wanted):
        self.c.forwards[i].slot = services[each.name]
        self.c.forwards[i].targets = &self.c.targets[n_targets]
        _put_forward(self, &self.c.forwards[i], &self.c.targets[n_targets], each, backends)
        n_targets += len(each.targets)
        next_range = ranges_put(&self.c.forwards[i].allowed, next_range, ranges[i])
        self.c.forward_of_slot[self.c.forwards[i].slot] = &self.c.forwards[i]
        self.c.forwards[i].maglev = maglev_entries(
            self.maglev, {} if previous is None else previous.maglev, _usable(each)
        )
    _put_births(self.c, NULL if previous is None else previous.c)
    return self


cdef void _put_births(forwards_t *self, const forwards_t *previous):
    """A slot of the tables before is still its owner's: it rests before another one gets it."""
    cdef uint32_t i
    cdef uint16_t slot
    for i in range(self.n):
        slot = self.forwards[i].slot
        self.forwards[i].born = self.generation
        if previous != NULL and previous.forward_of_slot[slot] != NULL:
            self.forwards[i].born = previous.forward_of_slot[slot].born
    for i in range(self.n_targets):
        slot = self.targets[i].slot
        self.targets[i].born = self.generation
        if previous != NULL and previous.target_of_slot[slot] != NULL:
            self.targets[i].born = previous.target_of_slot[slot].born


def _place(forward):
    return forward.place


def _name(target):
    return target.name


cdef tuple _usable(forward):
    """The same on every node: of those that are up, whether or not they are reached from here."""
    return tuple([
        (target.name, target.weight, i)
        for i, target in enumerate(sorted(forward.targets, key=_name))
        if target.is_open
    ])


cdef object _put_address(uint8_t *where, str address):
    cdef bytes ip = packed(address)
    memcpy(where, <const uint8_t *>ip, 16)


cdef object _put_forward(
    ForwardTables self, forward_t *forward, target_t *targets, wanted, dict backends
):
    cdef Py_ssize_t i
    _put_address(forward.place.destination, wanted.address)
    forward.place.destination_port = htons(wanted.port)
    forward.place.protocol = IPPROTO_UDP if wanted.udp else IPPROTO_TCP
    forward.how = HOWS.index(wanted.how)
    forward.affinity = wanted.affinity_ms is not None
    forward.affinity_ms = wanted.affinity_ms or 0
    forward.draining = bool(wanted.draining)
    forward.n_targets = <uint16_t>len(wanted.targets)
    # Every node must see the same order: Maglev's turns go by it.
    for i, target in enumerate(sorted(wanted.targets, key=_name)):
        targets[i].slot = backends[wanted.name, target.name]
        _put_target(&targets[i], target)
        self.c.target_of_slot[targets[i].slot] = &targets[i]


cdef object _put_target(target_t *target, wanted):
    cdef bytes mac = wanted.mac
    cdef bytes own_mac = wanted.own_mac
    cdef bytes name = wanted.name.encode()
    target.name = xxh64(<const uint8_t *>name, len(name), 0)
    _put_address(target.address, wanted.address)
    target.v6 = ":" in wanted.address
    target.port = htons(wanted.port)
    target.up = bool(wanted.up)
    target.open = wanted.is_open
    if not wanted.is_reachable:
        return
    target.interface = wanted.interface
    target.here = wanted.is_here
    target.mtu = wanted.mtu
    memcpy(target.mac, <const uint8_t *>mac, 6)
    memcpy(target.own_mac, <const uint8_t *>own_mac, 6)
    if wanted.source:
        _put_address(target.source, wanted.source)
