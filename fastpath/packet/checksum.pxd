"""The Internet checksum: summed up (RFC 1071) and brought up to date (RFC 1624, equation 3).

All 16-bit words are taken as they are in memory, sums and checksums too: a one's complement sum
is the same in either byte order (RFC 1071, 2 B), so nothing is ever swapped.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.sys_linux cimport htons


cdef inline uint64_t checksum_add_word(uint64_t sum, uint64_t word) noexcept nogil:
    """With the carry out of 64 bits: 2^64 - 1 is a multiple of 2^16 - 1."""
    sum += word
    return sum + (sum < word)


cdef inline uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t size) noexcept nogil:
    """`sum` and the words of `data`. Of the pieces of one sum only the last may be of odd size."""
    cdef uint64_t word64 = 0
    cdef uint32_t word32 = 0
    cdef uint16_t word16 = 0
    while size >= 8:
        memcpy(&word64, data, 8)
        sum = checksum_add_word(sum, word64)
        data += 8
        size -= 8
    if size & 4:
        memcpy(&word32, data, 4)
        sum = checksum_add_word(sum, word32)
        data += 4
    if size & 2:
        memcpy(&word16, data, 2)
        sum = checksum_add_word(sum, word16)
        data += 2
    if size & 1:
        word16 = 0
        memcpy(&word16, data, 1)
        sum = checksum_add_word(sum, word16)
    return sum


cdef inline uint16_t checksum_fold(uint64_t sum) noexcept nogil:
    """The sum in 16 bits; 0 only when all that was summed up is. A checksum is its complement."""
    sum = (sum >> 32) + <uint32_t>sum
    sum = (sum >> 32) + <uint32_t>sum
    sum = (sum >> 16) + <uint16_t>sum
    sum = (sum >> 16) + <uint16_t>sum
    return <uint16_t>sum


cdef inline uint64_t checksum_pseudo(
    const uint8_t *addresses, size_t size, uint32_t l4_size, uint8_t protocol
) noexcept nogil:
    """The sum of the pseudo-header; `addresses`: both, 8 or 32 bytes together."""
    cdef uint64_t sum = checksum_add(0, addresses, size)
    # The upper half of an IPv6 length is a word of its own.
    sum = checksum_add_word(sum, htons(<uint16_t>(l4_size >> 16)))
    sum = checksum_add_word(sum, htons(<uint16_t>l4_size))
    return checksum_add_word(sum, htons(protocol))


cdef inline uint64_t checksum_change(
    uint64_t sum, const uint8_t *old, const uint8_t *new, size_t size
) noexcept nogil:
    """`sum` and ~old and new: by what a checksum over `old` changes; `size` is even."""
    sum = checksum_add_word(sum, <uint16_t>~checksum_fold(checksum_add(0, old, size)))
    return checksum_add(sum, new, size)


cdef inline uint16_t checksum_update(uint16_t checksum, uint16_t delta) noexcept nogil:
    """HC' = ~(~HC + ~m + m'), where `delta` is the folded ~m + m'."""
    return <uint16_t>~checksum_fold(<uint64_t><uint16_t>~checksum + delta)


cdef inline uint16_t checksum_update_udp(uint16_t checksum, uint16_t delta) noexcept nogil:
    """0 means that there is none and stays; a computed 0 is sent as 0xffff (RFC 768)."""
    if checksum == 0:
        return 0
    checksum = checksum_update(checksum, delta)
    return checksum if checksum != 0 else 0xffff
