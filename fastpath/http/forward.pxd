"""Heads as we send them on: hop-by-hop fields out, framing and X-Forwarded-* our own.

The writers never check for room: FORWARD_SIZE_MAX holds the largest head that can come out of
HEAD_SIZE_MAX bytes of head that came in.
"""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport text_t
from fastpath.http.forwarded cimport peer_t
from fastpath.http.framing cimport body_t
from fastpath.http.http1 cimport HEAD_SIZE_MAX, TARGET_SIZE_MAX, head_t
from fastpath.http.request cimport request_t
from fastpath.sys_linux cimport sockaddr_any_t

cdef enum:
    # The path may grow by escapes, never beyond TARGET_SIZE_MAX; Host comes three times, and the
    # fields that we set have room beside it.
    LINES_SIZE_MAX = 4096       # of fields that filters add
    FORWARD_SIZE_MAX = HEAD_SIZE_MAX + TARGET_SIZE_MAX + 2048 + LINES_SIZE_MAX

# What happens to the client's connection after a response; decides its Connection field.
cdef enum ending_t:
    ENDING_KEEP                 # HTTP/1.1's default: nothing is said
    ENDING_KEEP_10              # said to a client that speaks HTTP/1.0
    ENDING_CLOSE
    ENDING_UPGRADE              # 101: the connection is the tunnel's

# Writes the head for the backend; its size. `source`: who asks.
cdef size_t forward_request(uint8_t *out, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer,
                            const sockaddr_any_t *source) noexcept nogil

# Writes the head for the client; its size. `body` is the body as it comes in, `as_chunks` how it
# goes out; `lines`: fields to add, or NULL. Interim heads (1xx):
# ENDING_KEEP, or ENDING_UPGRADE for 101.
cdef size_t forward_response(uint8_t *out, const head_t *head, const uint8_t *data,
                             const text_t *lines, const body_t *body, bint as_chunks,
                             ending_t ending) noexcept nogil

# Writes the last chunk with the trailer fields that may pass, and the empty line. `is_coded`: the
# body goes out in another coding than it came in.
cdef size_t forward_trailers(uint8_t *out, const head_t *head, const uint8_t *data,
                             bint is_coded) noexcept nogil

# Whether the field is a digest of the body, which another coding makes wrong (RFC 9530).
cdef bint is_digest(const uint8_t *name, uint16_t size) noexcept nogil
