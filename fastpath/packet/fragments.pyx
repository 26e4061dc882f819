"""Which ports the later fragments of a packet belong to: only its first one has them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport CACHE_LINE, FP_AGAIN, FP_FULL, FP_OK, fp_static_assert
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.slab cimport slab_free, slab_get, slab_init


cdef enum:
    CAPACITY_MAX = 1 << 20


fp_static_assert(sizeof(fragment_key_t) == 40)
fp_static_assert(sizeof(fragment_t) == CACHE_LINE)


cdef int fragments_init(
    fragments_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil:
    cdef uint64_t n_sets = 1
    memset(self, 0, sizeof(fragments_t))
    if capacity > CAPACITY_MAX:
        return FP_FULL
    while n_sets * FRAGMENT_WAYS < capacity:
        n_sets *= 2
    if slab_init(
        &self.memory, 1, <uint32_t>(n_sets * FRAGMENT_WAYS * sizeof(fragment_t))
    ) != FP_OK:
        return FP_FULL
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.fragments = <fragment_t *>slab_get(&self.memory)           # fresh pages are zero
    self.set_mask = n_sets - 1
    return FP_OK


cdef void fragments_free(fragments_t *self) noexcept nogil:
    slab_free(&self.memory)
    self.fragments = NULL


cdef inline fragment_t *_set(const fragments_t *self, const fragment_key_t *key) noexcept nogil:
    cdef uint64_t hash = siphash13(
        self.hash_key[0], self.hash_key[1], <const uint8_t *>key, sizeof(fragment_key_t)
    )
    return &self.fragments[(hash & self.set_mask) * FRAGMENT_WAYS]


cdef inline bint _is_of(const fragment_t *fragment, const fragment_key_t *key) noexcept nogil:
    return fragment.is_used and memcmp(&fragment.key, key, sizeof(fragment_key_t)) == 0


cdef void fragments_add(
    fragments_t *self, const fragment_key_t *key, uint16_t source_port, uint16_t destination_port,
    uint64_t now_ms,
) noexcept nogil:
    cdef fragment_t *place = _set(self, key)
    cdef fragment_t *taken = place
    cdef int way
    for way in range(FRAGMENT_WAYS):
        if _is_of(&place[way], key):
            taken = &place[way]
            break
        if place[way].seen_ms < taken.seen_ms:              # of an unused one it is 0
            taken = &place[way]
    taken.key = key[0]
    taken.seen_ms = now_ms
    taken.source_port = source_port
    taken.destination_port = destination_port
    taken.is_used = 1


cdef int fragments_find(
    fragments_t *self, const fragment_key_t *key, uint16_t *source_port,
    uint16_t *destination_port, uint64_t now_ms,
) noexcept nogil:
    cdef fragment_t *place = _set(self, key)
    cdef int way
    for way in range(FRAGMENT_WAYS):
        if _is_of(&place[way], key):
            if now_ms >= place[way].seen_ms + FRAGMENT_MS:
                return FP_AGAIN
            source_port[0] = place[way].source_port
            destination_port[0] = place[way].destination_port
            return FP_OK
    return FP_AGAIN
