"""CRC-32C (Castagnoli; RFC 3720, 12.1), byte by byte: for headers, not for streams."""

from libc.stdint cimport uint8_t, uint32_t

# Go on with `crc`, that of what comes before data[0:size]; 0 at the beginning.
cdef uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil
