"""Fixed-size records from one thread to another, in order, without a lock.

One thread puts, one takes (or more, one at a time, by a lock of theirs). Full is full: nothing is
overwritten, and the producer says whether it drops a record or keeps it for later.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK
from fastpath.atomics cimport count, load_acquire, load_relaxed, store_release
from fastpath.memory.slab cimport slab_t


# The counts run on for ever; a record's place is its count modulo `n_records`.

cdef struct ring_put_t:         # one cache line, that the producer alone writes
    uint64_t n_put              # store_release
    uint64_t n_taken            # as seen last: the other line is read only when this says full
    uint64_t n_dropped
    uint64_t spare[5]


cdef struct ring_take_t:        # one cache line, that the consumer alone writes
    uint64_t n_taken            # store_release
    uint64_t n_put              # as seen last
    uint64_t spare[6]


cdef struct ring_t:             # changes no more after ring_init
    slab_t memory               # what holds the rest, in this order
    ring_put_t *put
    ring_take_t *take
    uint8_t *records
    uint32_t n_records          # a power of two
    uint32_t record_size        # bytes


# Room for `n_records`, a power of two. FP_OK; FP_FULL: no memory, FP_BAD: no power of two.
cdef int ring_init(ring_t *self, uint32_t n_records, uint32_t record_size) noexcept nogil
# Both threads are done; what is left in it is gone.
cdef void ring_free(ring_t *self) noexcept nogil


cdef inline int ring_put(ring_t *self, const void *record) noexcept nogil:
    """Copy a record in: FP_OK or FP_FULL. The producer's."""
    cdef ring_put_t *put = self.put
    if put.n_put - put.n_taken == self.n_records:
        put.n_taken = load_acquire(&self.take.n_taken)
        if put.n_put - put.n_taken == self.n_records:
            return FP_FULL
    memcpy(
        self.records + (put.n_put & (self.n_records - 1)) * self.record_size,
        record, self.record_size,
    )
    store_release(&put.n_put, put.n_put + 1)
    return FP_OK


cdef inline int ring_take(ring_t *self, void *record) noexcept nogil:
    """Copy the oldest record out: FP_OK, or FP_AGAIN when there is none. The consumer's."""
    cdef ring_take_t *take = self.take
    if take.n_taken == take.n_put:
        take.n_put = load_acquire(&self.put.n_put)
        if take.n_taken == take.n_put:
            return FP_AGAIN
    memcpy(
        record,
        self.records + (take.n_taken & (self.n_records - 1)) * self.record_size,
        self.record_size,
    )
    store_release(&take.n_taken, take.n_taken + 1)
    return FP_OK


cdef inline void ring_drop(ring_t *self) noexcept nogil:
    """Count a record that the producer does not keep. The producer's."""
    count(&self.put.n_dropped, 1)


cdef inline uint64_t ring_dropped(const ring_t *self) noexcept nogil:
    """How many were dropped. Anybody's."""
    return load_relaxed(&self.put.n_dropped)
