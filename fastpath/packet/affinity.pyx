"""Where clients went last: affinity with a timeout."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK, fp_static_assert
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.slab cimport slab_free, slab_get, slab_init


cdef enum:
    CAPACITY_MAX = 1 << 20


fp_static_assert(sizeof(affinity_key_t) == 24)


cdef int affinity_init(
    affinity_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil:
    cdef uint64_t n_sets = 1
    memset(self, 0, sizeof(affinity_t))
    if capacity > CAPACITY_MAX:
        return FP_FULL
    while n_sets * AFFINITY_WAYS < capacity:
        n_sets *= 2
    if slab_init(
        &self.memory, 1, <uint32_t>(n_sets * AFFINITY_WAYS * sizeof(affine_t))
    ) != FP_OK:
        return FP_FULL
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.clients = <affine_t *>slab_get(&self.memory)               # fresh pages are zero
    self.set_mask = n_sets - 1
    return FP_OK


cdef void affinity_free(affinity_t *self) noexcept nogil:
    slab_free(&self.memory)
    self.clients = NULL


cdef affine_t *_set(
    const affinity_t *self, const uint8_t *client, uint64_t service, affinity_key_t *key
) noexcept nogil:
    """Where an entry may be; fills in its key."""
    cdef uint64_t hash
    memcpy(key.client, client, 16)
    key.service = service
    hash = siphash13(
        self.hash_key[0], self.hash_key[1], <const uint8_t *>key, sizeof(affinity_key_t)
    )
    return &self.clients[(hash & self.set_mask) * AFFINITY_WAYS]


cdef inline bint _is_of(const affine_t *affine, const affinity_key_t *key) noexcept nogil:
    return affine.is_used and memcmp(&affine.key, key, sizeof(affinity_key_t)) == 0


cdef void affinity_remember(
    affinity_t *self, const uint8_t *client, uint64_t service, uint64_t backend, uint64_t now_ms
) noexcept nogil:
    cdef affinity_key_t key
    cdef affine_t *place = _set(self, client, service, &key)
    cdef affine_t *taken = place
    cdef int way
    for way in range(AFFINITY_WAYS):
        if _is_of(&place[way], &key):
            taken = &place[way]
            break
        if place[way].used_ms < taken.used_ms:              # of an unused one it is 0
            taken = &place[way]
    taken.key = key
    taken.backend = backend
    taken.used_ms = now_ms
    taken.is_used = 1


cdef int affinity_recall(
    const affinity_t *self, const uint8_t *client, uint64_t service, uint32_t timeout_ms,
    uint64_t now_ms, uint64_t *backend,
) noexcept nogil:
    cdef affinity_key_t key
    cdef const affine_t *place = _set(self, client, service, &key)
    cdef int way
    for way in range(AFFINITY_WAYS):
        if _is_of(&place[way], &key):
            if now_ms >= place[way].used_ms + timeout_ms:
                return FP_AGAIN
            backend[0] = place[way].backend
            return FP_OK
    return FP_AGAIN
