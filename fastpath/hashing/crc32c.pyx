"""CRC-32C (Castagnoli), byte by byte."""

from libc.stdint cimport uint8_t, uint32_t

cdef uint32_t TABLE[256]


def _fill_table():
    """What each byte makes of an empty register, once at import."""
    polynomial = 0x82F63B78     # 0x1EDC6F41 with its bits in reverse order
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        TABLE[byte] = value


_fill_table()


cdef uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil:
    cdef size_t i
    crc = ~crc
    for i in range(size):
        crc = TABLE[(crc ^ data[i]) & 0xff] ^ (crc >> 8)
    return ~crc
