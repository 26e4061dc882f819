"""Which ports the later fragments of a packet belong to: only its first one has them.

A cache, set-associative: the packet's hash says in which set it is, and there the oldest makes
room. So a flood of first fragments costs others their entry, and never more time or memory. What is
not found goes by what a fragment does have: its addresses and protocol.

One thread uses a table. The hash is keyed, so nobody can aim at somebody's set.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t


cdef enum:
    FRAGMENT_WAYS = 4
    # From the first fragment on, whatever follows, as reassembly counts (RFC 791, 3.2 lets IPv4
    # take from 15 s; RFC 8200, 4.5 has IPv6 take 60 s; Linux takes 30 s and 60 s). IPv4 has 65536
    # identifications only: the sooner one is forgotten, the less is taken for what it was.
    FRAGMENT_MS = 30000


cdef struct fragment_key_t:     # hashed and compared as a whole
    uint8_t source[16]
    uint8_t destination[16]
    uint32_t identification     # as in the packet; IPv4: two bytes of it, the others 0
    uint8_t protocol
    uint8_t spare[3]            # 0


cdef struct fragment_t:         # one cache line
    fragment_key_t key
    uint64_t seen_ms            # when the first one came
    uint16_t source_port        # in network order
    uint16_t destination_port
    uint8_t is_used
    uint8_t spare[11]


cdef struct fragments_t:
    uint64_t hash_key[2]
    slab_t memory
    fragment_t *fragments       # (set_mask + 1) * FRAGMENT_WAYS
    uint64_t set_mask


# Room for `capacity` packets, rounded up to FRAGMENT_WAYS times a power of two. FP_OK; FP_FULL:
# there is no memory, or it would be more than 2^20.
cdef int fragments_init(
    fragments_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil
cdef void fragments_free(fragments_t *self) noexcept nogil
# A packet's first fragment came.
cdef void fragments_add(
    fragments_t *self,
    const fragment_key_t *key,
    uint16_t source_port,
    uint16_t destination_port,
    uint64_t now_ms,
) noexcept nogil
# The ports of the packet that a later fragment is of. FP_OK, or FP_AGAIN: its first one has not
# come, or too long ago.
cdef int fragments_find(
    fragments_t *self,
    const fragment_key_t *key,
    uint16_t *source_port,
    uint16_t *destination_port,
    uint64_t now_ms,
) noexcept nogil
