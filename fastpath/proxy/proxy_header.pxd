"""PROXY protocol headers, versions 1 (a line of text) and 2 (binary), read and written.

The specification is doc/proxy-protocol.txt of HAProxy; numbers of sections are its own. Beyond it:
version 1 also reads `::ffff:192.0.2.1`, which is how inet_ntop writes such an address; version 2
is bounded by PROXY_V2_SIZE_MAX, and what follows the addresses must be well-formed TLVs, of which
the checksum is verified and the others are skipped.
"""

from libc.stdint cimport uint8_t

from fastpath.sys_linux cimport sockaddr_any_t


cdef enum:
    PROXY_V1_SIZE_MAX = 107             # 2.1, of a whole line
    PROXY_V2_SIZE_MAX = 16 + 4096       # that is read; ours have 52 bytes at most


cdef struct proxy_header_t:
    sockaddr_any_t source       # the client; zeroed but for family, address and port
    sockaddr_any_t destination  # where it connected to; of the same family
    uint8_t version             # 1 or 2
    uint8_t local               # no addresses: those of the connection itself hold


# Read the header that a connection begins with. Its size (> 0); FP_AGAIN: data[0:size] is the
# beginning of one; FP_BAD: it is none. In version 1 FP_BAD comes with the first byte that no header
# can have there, in version 2 when the field that is wrong is complete. Only a size > 0 gives
# `header` a meaning.
cdef int proxy_header_read(
    const uint8_t *data, size_t size, proxy_header_t *header
) noexcept nogil

# Write the header of that version and return its size; `data` has room for PROXY_V1_SIZE_MAX.
# IPv4 beside IPv6 is written as ::ffff:a.b.c.d. An address that is NULL or of another family is not
# known: the header says that the connection's own hold (UNKNOWN, LOCAL), as a health check wants.
cdef size_t proxy_header_write(
    uint8_t *data,
    uint8_t version,
    const sockaddr_any_t *source,
    const sockaddr_any_t *destination,
) noexcept nogil
