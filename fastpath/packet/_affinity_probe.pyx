"""Python's way into affinity, for the tests; built with PIAGENT_PROBE=1 only.

A client is 16 bytes.
"""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.abi cimport FP_OK
from fastpath.packet.affinity cimport (
    AFFINITY_WAYS as _AFFINITY_WAYS, affinity_free, affinity_init, affinity_recall,
    affinity_remember, affinity_t,
)

AFFINITY_WAYS = _AFFINITY_WAYS


cdef class Affinity:
    cdef affinity_t affinity

    def __cinit__(self, capacity):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = 0x0706050403020100, 0x0f0e0d0c0b0a0908
        if affinity_init(&self.affinity, capacity, hash_key) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        affinity_free(&self.affinity)

    @property
    def n_sets(self):
        return self.affinity.set_mask + 1

    def remember(self, bytes client, service, backend, now_ms):
        affinity_remember(&self.affinity, <const uint8_t *>client, service, backend, now_ms)

    def recall(self, bytes client, service, timeout_ms, now_ms):
        cdef uint64_t backend = 0
        if affinity_recall(
            &self.affinity, <const uint8_t *>client, service, timeout_ms, now_ms, &backend
        ) != FP_OK:
            return None
        return backend
