"""SipHash-1-3 and SipHash-2-4: one core, two numbers of rounds."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from fastpath.hashing.bits cimport le64toh, load_le64, rotate_left

cdef extern from *:
    """
    /* "somepseudorandomlygeneratedbytes", section 2.1 */
    #define SIP_INIT_0 UINT64_C(0x736f6d6570736575)
    #define SIP_INIT_1 UINT64_C(0x646f72616e646f6d)
    #define SIP_INIT_2 UINT64_C(0x6c7967656e657261)
    #define SIP_INIT_3 UINT64_C(0x7465646279746573)
    """
    const uint64_t SIP_INIT_0
    const uint64_t SIP_INIT_1
    const uint64_t SIP_INIT_2
    const uint64_t SIP_INIT_3

cdef struct sip_t:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline void sip_rounds(sip_t *self, int count) noexcept nogil:
    """SipRound, `count` times (section 2.3)."""
    while count > 0:
        count -= 1
        self.v0 += self.v1
        self.v2 += self.v3
        self.v1 = rotate_left(self.v1, 13) ^ self.v0
        self.v3 = rotate_left(self.v3, 16) ^ self.v2
        self.v0 = rotate_left(self.v0, 32)
        self.v2 += self.v1
        self.v0 += self.v3
        self.v1 = rotate_left(self.v1, 17) ^ self.v2
        self.v3 = rotate_left(self.v3, 21) ^ self.v0
        self.v2 = rotate_left(self.v2, 32)


cdef inline void sip_absorb(sip_t *self, uint64_t word, int rounds) noexcept nogil:
    self.v3 ^= word
    sip_rounds(self, rounds)
    self.v0 ^= word


cdef inline uint64_t sip_hash(
    uint64_t k0, uint64_t k1, const uint8_t *data, size_t size, int word_rounds, int final_rounds
) noexcept nogil:
    """Whole words, then the last one: what is left of the bytes, and the length in the top byte."""
    cdef sip_t state
    cdef uint64_t last = 0
    cdef size_t left = size % 8
    cdef const uint8_t *end = data + (size - left)
    state.v0 = k0 ^ SIP_INIT_0
    state.v1 = k1 ^ SIP_INIT_1
    state.v2 = k0 ^ SIP_INIT_2
    state.v3 = k1 ^ SIP_INIT_3
    while data != end:
        sip_absorb(&state, load_le64(data), word_rounds)
        data += 8
    if left != 0:
        memcpy(&last, data, left)
    sip_absorb(&state, le64toh(last) | (<uint64_t>size << 56), word_rounds)
    state.v2 ^= 0xff
    sip_rounds(&state, final_rounds)
    return state.v0 ^ state.v1 ^ state.v2 ^ state.v3


cdef uint64_t siphash13(
    uint64_t k0, uint64_t k1, const uint8_t *data, size_t size
) noexcept nogil:
    return sip_hash(k0, k1, data, size, 1, 3)


cdef uint64_t siphash24(
    uint64_t k0, uint64_t k1, const uint8_t *data, size_t size
) noexcept nogil:
    return sip_hash(k0, k1, data, size, 2, 4)
