"""Whether an address is in a set of CIDR prefixes: who may connect, who is a proxy to trust."""

from libc.stdint cimport uint8_t

from fastpath.address cimport ADDRESS_SIZE, address_put
from fastpath.ranges cimport ranges_have


cdef bint prefixes_have(const prefixes_t *self, const sockaddr_any_t *address) noexcept nogil:
    cdef uint8_t ip[ADDRESS_SIZE]
    address_put(ip, address)
    return ranges_have(self, ip)
