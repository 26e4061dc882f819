"""Whether an address is in a set of CIDR prefixes, as they are in tables: disjoint ranges."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.abi cimport prefixes_t, range_t


cdef inline bint is_below(
    uint64_t high, uint64_t low, uint64_t other_high, uint64_t other_low
) noexcept nogil:
    return high < other_high or (high == other_high and low < other_low)


cdef inline bint ranges_have(const prefixes_t *self, const uint8_t *ip) noexcept nogil:
    """`ip`: 16 bytes, IPv4 as ::ffff:a.b.c.d. No address is in the empty set."""
    cdef uint64_t high = 0
    cdef uint64_t low = 0
    cdef uint32_t start = 0     # the first range that may end at the address or after it
    cdef uint32_t end = self.n  # the same once `start` has come here
    cdef uint32_t middle
    cdef const range_t *found
    cdef int i
    for i in range(8):
        high = high << 8 | ip[i]
        low = low << 8 | ip[8 + i]
    while start < end:
        middle = start + (end - start) // 2
        found = &self.ranges[middle]
        if is_below(found.last_high, found.last_low, high, low):
            start = middle + 1
        else:
            end = middle
    if start == self.n:
        return False
    found = &self.ranges[start]
    return not is_below(high, low, found.first_high, found.first_low)
