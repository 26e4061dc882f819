"""Where clients went last: affinity with a timeout.

A cache as that of fragments: the hash of client and service says in which set an entry is, and
there the one that was used the longest ago makes room; the hash is keyed, so nobody can aim at
somebody's set. What gets in is for the user to say: only what a forged source does not bring about
is worth remembering, or who sends packets with many of them has every client forgotten.

Clients go by their whole address. One thread uses a table.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t


cdef enum:
    AFFINITY_WAYS = 8


cdef struct affinity_key_t:     # hashed and compared as a whole
    uint8_t client[16]
    uint64_t service            # one that no other service ever has


cdef struct affine_t:
    affinity_key_t key
    uint64_t backend            # one that no other backend ever has
    uint64_t used_ms            # when the client's latest flow to it was confirmed
    uint64_t is_used


cdef struct affinity_t:
    uint64_t hash_key[2]
    slab_t memory
    affine_t *clients           # (set_mask + 1) * AFFINITY_WAYS
    uint64_t set_mask


# Room for `capacity` clients, rounded up to AFFINITY_WAYS times a power of two. FP_OK; FP_FULL:
# there is no memory, or it would be more than 2^20.
cdef int affinity_init(
    affinity_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil
cdef void affinity_free(affinity_t *self) noexcept nogil
# A flow of this client went to that backend.
cdef void affinity_remember(
    affinity_t *self, const uint8_t *client, uint64_t service, uint64_t backend, uint64_t now_ms
) noexcept nogil
# FP_OK and the backend, if that was less than `timeout_ms` ago; else FP_AGAIN.
cdef int affinity_recall(
    const affinity_t *self,
    const uint8_t *client,
    uint64_t service,
    uint32_t timeout_ms,
    uint64_t now_ms,
    uint64_t *backend,
) noexcept nogil
