"""What it takes to make a Maglev table and to choose by one, for benchmarks/packet.py."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.packet.aim cimport aim_choose
from fastpath.packet.flow cimport REWRITE_NAT, flow_key_t
from fastpath.packet.forwards cimport forward_t, target_t
from fastpath.table_parts cimport Maglev

ENTRIES = MAGLEV_SIZE


def build_ns(names: list) -> float:
    """CPU time to make the table of backends of these names and equal weight."""
    cdef uint64_t began
    key = tuple((name, 1, i) for i, name in enumerate(sorted(names)))
    began = _now_ns()
    Maglev(key)
    return _now_ns() - began


def choose_ns(names: list, n: int) -> float:
    """CPU time to choose a reachable backend of these names, for each of `n` hashes."""
    cdef Maglev maglev = Maglev(tuple((name, 1, i) for i, name in enumerate(sorted(names))))
    cdef uint32_t n_hashes = n
    cdef uint32_t n_targets = len(names)
    cdef target_t *targets = <target_t *>calloc(n_targets, sizeof(target_t))
    cdef forward_t forward
    cdef uint64_t took
    cdef uint32_t i
    if targets == NULL:
        raise MemoryError
    memset(&forward, 0, sizeof(forward))
    forward.how = REWRITE_NAT
    forward.targets = targets
    forward.n_targets = <uint16_t>n_targets
    forward.maglev = <const uint16_t *>maglev.entries
    for i in range(n_targets):
        targets[i].interface = 1
        targets[i].slot = <uint16_t>i
    try:
        with nogil:
            took = _choose(&forward, n_hashes)
    finally:
        free(targets)
    if took == 0:
        raise AssertionError("a hash without a backend")
    return <double>took / n_hashes


cdef uint64_t _choose(const forward_t *forward, uint32_t n) noexcept nogil:
    """Nanoseconds for all; 0: there was none for one of them."""
    cdef uint64_t[2] hash_key
    cdef uint64_t began, hash = 1
    cdef flow_key_t key
    cdef const target_t *target
    cdef uint32_t _i
    memset(&key, 0, sizeof(key))
    hash_key[0] = hash_key[1] = 0
    began = _now_ns()
    for _i in range(n):
        target = aim_choose(forward, &key, hash, hash_key)
        if target == NULL:
            return 0
        # The next one hangs on this one, as nothing is known of a packet's flow before it came.
        hash = (hash + target.slot) * 0x9e3779b97f4a7c15u
    return _now_ns() - began


cdef uint64_t _now_ns() noexcept nogil:
    """Of CPU time."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
