"""X-Forwarded-For and its kin: what trusted proxies say of who asks, and what backends hear of it.

The client is the right-most address of X-Forwarded-For that is not a trusted proxy's: what stands
left of it, the client may have written itself.
"""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport prefixes_t
from fastpath.http.http1 cimport head_t
from fastpath.http.request cimport request_t
from fastpath.http.writing cimport put
from fastpath.sys_linux cimport sockaddr_any_t

cdef enum:
    ADDRESS_SIZE_MAX = 46       # text of an IPv6 address
    AUTHORITY_SIZE_MAX = 56     # with brackets and port

# Who has connected, as text; for X-Forwarded-* and Forwarded.
cdef struct peer_t:
    uint8_t address[ADDRESS_SIZE_MAX]
    uint8_t address_size
    bint is_v6
    uint8_t local[AUTHORITY_SIZE_MAX]   # where it connected to: stands in for a missing Host
    uint8_t local_size
    uint8_t port_size           # of the port at the end of `local`
    uint16_t port

# Notes who has connected and where, once for all requests of a connection.
cdef void peer_init(peer_t *self, const sockaddr_any_t *peer,
                    const sockaddr_any_t *local) noexcept nogil

cdef inline uint8_t *put_host(uint8_t *out, const request_t *request, const uint8_t *data,
                              const peer_t *peer) noexcept nogil:
    """The host as it was sent; without one (HTTP/1.0) where the client connected to."""
    if request.host_field.size == 0:
        return put(out, peer.local, peer.local_size)
    return put(out, data + request.host_field.at, request.host_field.size)

# Who asks, by the fields of a trusted proxy: whether they say; else `source` stays as it is.
cdef bint forwarded_source(const head_t *head, const uint8_t *data, const prefixes_t *trusted,
                           sockaddr_any_t *source) noexcept nogil

# Writes the fields that say where a request comes from; the end of what was written. `source`: who
# asks, for a trusted request; else it is the peer.
cdef uint8_t *forwarded_put(uint8_t *end, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer,
                            const sockaddr_any_t *source) noexcept nogil
