"""XXH64 (xxHash specification 0.2.0, "XXH64 algorithm description"): quick, for names; not keyed.

Never hash what a client chose with it: whoever knows the seed can build collisions.
"""

from libc.stdint cimport uint8_t, uint64_t

# `data` may be NULL when `size` is 0.
cdef uint64_t xxh64(const uint8_t *data, size_t size, uint64_t seed) noexcept nogil
