"""A fixed number of equal objects: no allocation after the start, pages touched when first used."""

from libc.string cimport memset

from fastpath.abi cimport FP_FULL, FP_OK
from fastpath.sys_linux cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap,
)


cdef int slab_init(slab_t *self, uint32_t n_objects, uint32_t object_size) noexcept nogil:
    memset(self, 0, sizeof(slab_t))
    self.object_size = (object_size + 15) & ~15u
    self.stride = self.object_size + FP_REDZONE
    self.n_objects = n_objects
    self.memory_size = <size_t>n_objects * self.stride
    if self.memory_size == 0:
        return FP_OK
    cdef void *memory = mmap(
        NULL, self.memory_size, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )
    if memory == MAP_FAILED:
        self.n_objects = 0
        self.memory_size = 0
        return FP_FULL
    self.memory = <uint8_t *>memory
    return FP_OK


cdef void slab_free(slab_t *self) noexcept nogil:
    if self.memory != NULL:
        fp_permit(self.memory, <size_t>self.n_fresh * self.stride)      # who maps it next may
        munmap(self.memory, self.memory_size)
    memset(self, 0, sizeof(slab_t))
