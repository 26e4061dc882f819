"""Fixed-size records from one thread to another, in order, without a lock."""

from libc.string cimport memset

from fastpath.abi cimport CACHE_LINE, FP_BAD, fp_static_assert
from fastpath.memory.slab cimport slab_free, slab_get, slab_init


cdef int ring_init(ring_t *self, uint32_t n_records, uint32_t record_size) noexcept nogil:
    cdef size_t size = sizeof(ring_put_t) + sizeof(ring_take_t) + <size_t>n_records * record_size
    cdef uint8_t *memory
    fp_static_assert(sizeof(ring_put_t) == CACHE_LINE)
    fp_static_assert(sizeof(ring_take_t) == CACHE_LINE)
    memset(self, 0, sizeof(ring_t))
    if n_records == 0 or n_records & (n_records - 1):
        return FP_BAD
    if size > <uint32_t>-1 or slab_init(&self.memory, 1, <uint32_t>size) != FP_OK:
        return FP_FULL
    memory = <uint8_t *>slab_get(&self.memory)      # fresh pages are zero
    self.put = <ring_put_t *>memory
    self.take = <ring_take_t *>(memory + sizeof(ring_put_t))
    self.records = memory + sizeof(ring_put_t) + sizeof(ring_take_t)
    self.n_records = n_records
    self.record_size = record_size
    return FP_OK


cdef void ring_free(ring_t *self) noexcept nogil:
    slab_free(&self.memory)
    memset(self, 0, sizeof(ring_t))
