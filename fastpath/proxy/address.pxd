"""IPv4 and IPv6 addresses in one form: 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from fastpath.sys_linux cimport AF_INET, sockaddr_any_t


cdef enum:
    ADDRESS_SIZE = 16


# Write the 16 bytes, in network order.
cdef inline void address_put(uint8_t *ip, const sockaddr_any_t *address) noexcept nogil:
    if address.any.sa_family == AF_INET:
        memset(ip, 0, 10)
        ip[10] = 0xff
        ip[11] = 0xff
        memcpy(ip + 12, &address.v4.sin_addr, 4)
    else:
        memcpy(ip, &address.v6.sin6_addr, ADDRESS_SIZE)
