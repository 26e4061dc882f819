"""Bytes and bits: little-endian loads from any address, and rotation."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint32_t le32toh(uint32_t word)
    uint64_t le64toh(uint64_t word)


cdef inline uint32_t load_le32(const uint8_t *data) noexcept nogil:
    """Four bytes as a number; memcpy, because `data` may be unaligned."""
    cdef uint32_t word = 0
    memcpy(&word, data, sizeof(word))
    return le32toh(word)


cdef inline uint64_t load_le64(const uint8_t *data) noexcept nogil:
    """Eight bytes as a number."""
    cdef uint64_t word = 0
    memcpy(&word, data, sizeof(word))
    return le64toh(word)


cdef inline uint64_t rotate_left(uint64_t word, int count) noexcept nogil:
    """`count`: 1 to 63."""
    return (word << count) | (word >> (64 - count))


cdef inline uint64_t mix64(uint64_t word) noexcept nogil:
    """Spread a counter or a hash over all bits (Steele et al. 2014, SplitMix64's finaliser)."""
    word = (word ^ (word >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * <uint64_t>0x94D049BB133111EB
    return word ^ (word >> 31)


cdef inline uint64_t draw64(uint64_t seed, uint64_t number) noexcept nogil:
    """The `number`th of a sequence of random numbers that belongs to the seed (SplitMix64)."""
    return mix64(seed + number * <uint64_t>0x9E3779B97F4A7C15)
