"""A fixed number of equal objects: no allocation after the start, pages touched when first used."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <string.h>
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #define FP_REDZONE 16
    #define fp_forbid(memory, size) __asan_poison_memory_region((memory), (size))
    #define fp_permit(memory, size) __asan_unpoison_memory_region((memory), (size))
    #else
    #define FP_REDZONE 0
    #define fp_forbid(memory, size) ((void)(memory), (void)(size))
    #define fp_permit(memory, size) ((void)(memory), (void)(size))
    #endif
    #ifdef FP_DEBUG
    #define fp_spoil(memory, size) memset((memory), 0xdb, (size))
    #else
    #define fp_spoil(memory, size) ((void)(memory), (void)(size))
    #endif
    """
    # AddressSanitizer, where the build has it, stops who touches what is forbidden; there is a
    # forbidden stretch behind each object, too.
    const uint32_t FP_REDZONE
    void fp_forbid(void *memory, size_t size) noexcept nogil
    void fp_permit(void *memory, size_t size) noexcept nogil
    # In debug builds: make the use of an object that was given back show.
    void fp_spoil(void *memory, size_t size) noexcept nogil


cdef struct slab_t:
    uint8_t *memory             # owned; mapped lazily by the kernel
    size_t memory_size
    void *free_first            # chain through the first word of each free object
    uint32_t object_size        # a multiple of 16
    uint32_t stride             # from one object to the next
    uint32_t n_objects
    uint32_t n_fresh            # objects from here on were never used
    uint32_t n_used


# Set aside `n_objects`; FP_OK or FP_FULL.
cdef int slab_init(slab_t *self, uint32_t n_objects, uint32_t object_size) noexcept nogil
cdef void slab_free(slab_t *self) noexcept nogil


cdef inline void *slab_get(slab_t *self) noexcept nogil:
    """An object with arbitrary content, the one last put back first; NULL when none is left."""
    cdef void *taken = self.free_first
    if taken != NULL:
        fp_permit(taken, self.object_size)
        self.free_first = (<void **>taken)[0]
    elif self.n_fresh < self.n_objects:
        taken = self.memory + <size_t>self.n_fresh * self.stride
        self.n_fresh += 1
        fp_forbid(<uint8_t *>taken + self.object_size, FP_REDZONE)
    else:
        return NULL
    self.n_used += 1
    return taken


cdef inline void slab_put(slab_t *self, void *taken) noexcept nogil:
    """Give back what slab_get returned."""
    fp_spoil(taken, self.object_size)
    (<void **>taken)[0] = self.free_first
    fp_forbid(taken, self.object_size)
    self.free_first = taken
    self.n_used -= 1
