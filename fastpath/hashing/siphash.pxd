"""SipHash with 64 bits of result (Aumasson and Bernstein, 2012): aimed by key holders only.

`k0` and `k1` are the first and the last eight bytes of the key, read little-endian. `data` may be
NULL when `size` is 0.
"""

from libc.stdint cimport uint8_t, uint64_t

# One round a word, three at the end: for hash tables and flows.
cdef uint64_t siphash13(
    uint64_t k0, uint64_t k1, const uint8_t *data, size_t size
) noexcept nogil

# The paper's proposal, which the published vectors are for.
cdef uint64_t siphash24(
    uint64_t k0, uint64_t k1, const uint8_t *data, size_t size
) noexcept nogil
