"""IPv4 and IPv6 addresses in one form: 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp, memcpy, memset

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


cdef inline bint address_is_v4(const uint8_t *ip) noexcept nogil:
    """Whether these 16 bytes are an IPv4 address, ::ffff:a.b.c.d."""
    return memcmp(ip, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef inline bint address_shares_link(const uint8_t *ip) noexcept nogil:
    """Whether the /64 of this IPv6 address is a link's and not a host's: fe80::/10, fc00::/7."""
    return (ip[0] == 0xfe and ip[1] & 0xc0 == 0x80) or ip[0] & 0xfe == 0xfc


# Write the 16 bytes that a client is counted by: of an IPv6 address its /64, for a host has all of
# it, but on the LAN each address. A PROXY header may give an IPv4 client as ::ffff:a.b.c.d.
cdef inline void address_put_client(uint8_t *ip, const sockaddr_any_t *client) noexcept nogil:
    address_put(ip, client)
    if not address_is_v4(ip) and not address_shares_link(ip):
        memset(ip + 8, 0, 8)
