"""What a complete request head means: where it goes and how its body is framed."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport text_t
from fastpath.http.framing cimport body_t, options_t
from fastpath.http.http1 cimport TARGET_SIZE_MAX, head_t, span_t
from fastpath.http.path cimport HOST_SIZE_MAX
from fastpath.http.predicates cimport asked_t

cdef enum:
    PATH_ROOM = TARGET_SIZE_MAX + 4     # path_canonical wants a little more than it gives
    REQUEST_ID_MAX = 64

cdef struct request_t:
    body_t body
    options_t options
    span_t host_field           # Host's value, or the target's authority; size 0: none (HTTP/1.0)
    span_t query                # from its `?` on, as it was sent
    text_t new_host             # what a filter has the backend get for Host; size 0: as it came
    text_t lines                # field lines of a filter's own
    text_t target_lines         # of one of the target's
    uint16_t host_size
    uint16_t path_size
    bint is_asterisk            # the target is `*`: `path` is `/` to match by
    bint is_trusted             # came from a proxy that may say who asks
    bint is_rewritten           # a filter has changed `path`, or said another host
    bint is_websocket           # asks for the upgrade that we pass on
    uint8_t id_size             # 0: it gets no X-Request-Id
    uint8_t id[REQUEST_ID_MAX]
    uint8_t host[HOST_SIZE_MAX]     # canonical
    uint8_t path[PATH_ROOM]         # canonical

# Reads a complete head of a request: 0 or -refusal_t. Fields that Connection names become
# FIELD_HOP. `rules`: for the path (path.pxd).
cdef int request_read(request_t *self, head_t *head, const uint8_t *data,
                      uint8_t rules) noexcept nogil

# What of a request that was read counts for its route; it points into all three.
cdef void request_asked(asked_t *asked, const request_t *self, const head_t *head,
                        const uint8_t *data) noexcept nogil
