"""Heads as we send them on: hop-by-hop fields out, framing and X-Forwarded-* our own.

The writers never check for room: FORWARD_SIZE_MAX holds the largest head that can come out of
HEAD_SIZE_MAX bytes of head that came in.
"""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.http.framing cimport body_t
from fastpath.http.http1 cimport HEAD_SIZE_MAX, TARGET_SIZE_MAX, head_t
from fastpath.http.request cimport request_t
from fastpath.sys_linux cimport sockaddr_any_t

cdef enum:
    ADDRESS_SIZE_MAX = 46       # text of an IPv6 address
    AUTHORITY_SIZE_MAX = 56     # with brackets and port
    # The path may grow by escapes, never beyond TARGET_SIZE_MAX; Host comes three times, and the
    # fields that we set have room beside it.
    FORWARD_SIZE_MAX = HEAD_SIZE_MAX + TARGET_SIZE_MAX + 2048

# Who asks, as text; for X-Forwarded-* and Forwarded.
cdef struct peer_t:
    uint8_t address[ADDRESS_SIZE_MAX]
    uint8_t address_size
    bint is_v6
    uint8_t local[AUTHORITY_SIZE_MAX]   # where it connected to: stands in for a missing Host
    uint8_t local_size
    uint8_t port_size           # of the port at the end of `local`

# What happens to the client's connection after a response; decides its Connection field.
cdef enum ending_t:
    ENDING_KEEP                 # HTTP/1.1's default: nothing is said
    ENDING_KEEP_10              # said to a client that speaks HTTP/1.0
    ENDING_CLOSE
    ENDING_UPGRADE              # 101: the connection is the tunnel's

# Notes who asks and where, once for all requests of a connection.
cdef void peer_init(peer_t *self, const sockaddr_any_t *peer,
                    const sockaddr_any_t *local) noexcept nogil

# Writes the head for the backend; its size.
cdef size_t forward_request(uint8_t *out, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer) noexcept nogil

# Writes the head for the client; its size. `body` is the body as it comes in, `as_chunks` how it
# goes out. Interim (1xx) heads: ENDING_KEEP, or ENDING_UPGRADE for 101.
cdef size_t forward_response(uint8_t *out, const head_t *head, const uint8_t *data,
                             const body_t *body, bint as_chunks, ending_t ending) noexcept nogil

# Writes the last chunk with the trailer fields that may pass, and the empty line.
cdef size_t forward_trailers(uint8_t *out, const head_t *head, const uint8_t *data) noexcept nogil

# Writes a number in decimal; its size (at most 20).
cdef size_t put_number(uint8_t *out, unsigned long long value) noexcept nogil
