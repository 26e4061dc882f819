"""XXH64: four lanes over stripes of 32 bytes, then the tail, then the avalanche."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.hashing.bits cimport load_le32, load_le64, rotate_left

cdef extern from *:
    """
    #define XXH_PRIME_1 UINT64_C(0x9E3779B185EBCA87)
    #define XXH_PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
    #define XXH_PRIME_3 UINT64_C(0x165667B19E3779F9)
    #define XXH_PRIME_4 UINT64_C(0x85EBCA77C2B2AE63)
    #define XXH_PRIME_5 UINT64_C(0x27D4EB2F165667C5)
    """
    const uint64_t XXH_PRIME_1
    const uint64_t XXH_PRIME_2
    const uint64_t XXH_PRIME_3
    const uint64_t XXH_PRIME_4
    const uint64_t XXH_PRIME_5


cdef inline uint64_t xxh_lane(uint64_t lane, uint64_t word) noexcept nogil:
    return rotate_left(lane + word * XXH_PRIME_2, 31) * XXH_PRIME_1


cdef inline uint64_t xxh_merge(uint64_t hash, uint64_t lane) noexcept nogil:
    return (hash ^ xxh_lane(0, lane)) * XXH_PRIME_1 + XXH_PRIME_4


cdef inline uint64_t xxh_stripes(
    const uint8_t *data, const uint8_t *end, uint64_t seed
) noexcept nogil:
    """Steps 1 to 3: all bytes up to `end`, which is a multiple of 32 and not 0 away."""
    cdef uint64_t lane0 = seed + XXH_PRIME_1 + XXH_PRIME_2
    cdef uint64_t lane1 = seed + XXH_PRIME_2
    cdef uint64_t lane2 = seed
    cdef uint64_t lane3 = seed - XXH_PRIME_1
    cdef uint64_t hash
    while data != end:
        lane0 = xxh_lane(lane0, load_le64(data))
        lane1 = xxh_lane(lane1, load_le64(data + 8))
        lane2 = xxh_lane(lane2, load_le64(data + 16))
        lane3 = xxh_lane(lane3, load_le64(data + 24))
        data += 32
    hash = (
        rotate_left(lane0, 1) + rotate_left(lane1, 7)
        + rotate_left(lane2, 12) + rotate_left(lane3, 18)
    )
    hash = xxh_merge(hash, lane0)
    hash = xxh_merge(hash, lane1)
    hash = xxh_merge(hash, lane2)
    return xxh_merge(hash, lane3)


cdef inline uint64_t xxh_tail(uint64_t hash, const uint8_t *data, size_t left) noexcept nogil:
    """Step 5: the last bytes, fewer than 32."""
    while left >= 8:
        hash = rotate_left(hash ^ xxh_lane(0, load_le64(data)), 27) * XXH_PRIME_1 + XXH_PRIME_4
        data += 8
        left -= 8
    if left >= 4:
        hash ^= load_le32(data) * XXH_PRIME_1
        hash = rotate_left(hash, 23) * XXH_PRIME_2 + XXH_PRIME_3
        data += 4
        left -= 4
    while left > 0:
        hash = rotate_left(hash ^ data[0] * XXH_PRIME_5, 11) * XXH_PRIME_1
        data += 1
        left -= 1
    return hash


cdef uint64_t xxh64(const uint8_t *data, size_t size, uint64_t seed) noexcept nogil:
    cdef size_t left = size % 32
    cdef uint64_t hash = seed + XXH_PRIME_5
    if size >= 32:
        hash = xxh_stripes(data, data + (size - left), seed)
    hash = xxh_tail(hash + size, data + (size - left), left)
    hash = (hash ^ (hash >> 33)) * XXH_PRIME_2
    hash = (hash ^ (hash >> 29)) * XXH_PRIME_3
    return hash ^ (hash >> 32)
