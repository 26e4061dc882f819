"""A gateway's access log, at the worker: what is noted of a request while it is under way.

client_t.record is NULL when nobody wants to know; the inline functions are that test.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.http.http1 cimport refusal_t
from fastpath.http.options cimport options_t
from fastpath.http.records cimport ENDED_TUNNEL, request_end_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# Begin with a request whose head lies in the client's buffer. `request`: what was read of it; NULL:
# it is refused for its head, which may be incomplete.
cdef void access_begin(loop_t *loop, client_t *client, const request_t *request) noexcept nogil

# It will be answered by ourselves: with `size` bytes of body.
cdef void access_refused(loop_t *loop, client_t *client, refusal_t why,
                         uint64_t size) noexcept nogil

# The request is over: hand the record to Python. Call it before the route and the upstream go.
cdef void access_write(loop_t *loop, client_t *client) noexcept nogil


cdef inline void access_done(loop_t *loop, client_t *client) noexcept nogil:
    """The request is over; harmless when there was none."""
    if client.record != NULL:
        access_write(loop, client)


cdef inline void access_ends(client_t *client, request_end_t how) noexcept nogil:
    """How it will have ended, unless a refusal comes."""
    if client.record != NULL and not client.record.is_refused:
        client.record.how = <uint8_t>how


cdef inline void access_called(const loop_t *loop, client_t *client) noexcept nogil:
    """It has its place, after it waited."""
    if client.record != NULL:
        client.record.queue_us = loop.now_us - client.record.complete_us


cdef inline void access_connecting(const loop_t *loop, client_t *client) noexcept nogil:
    if client.record != NULL:
        client.record.connecting_us = loop.now_us


cdef inline void access_attached(const loop_t *loop, client_t *client, uint16_t slot,
                                 bint is_pooled) noexcept nogil:
    """A socket to that backend takes the request."""
    if client.record != NULL:
        client.record.has_backend = True
        client.record.backend_slot = slot
        client.record.attached_us = loop.now_us
        client.record.connect_us = 0 if is_pooled else loop.now_us - client.record.connecting_us


cdef inline void access_answered(const loop_t *loop, client_t *client) noexcept nogil:
    """The final head has come from the backend."""
    if client.record != NULL:
        client.record.has_response = True
        client.record.response_us = loop.now_us - client.record.attached_us


cdef inline void access_moved(client_t *client, uint64_t bytes_in,
                              uint64_t bytes_out) noexcept nogil:
    if client.record != NULL:
        client.record.bytes_in += bytes_in
        client.record.bytes_out += bytes_out


cdef inline void access_head_in(client_t *client, uint64_t size) noexcept nogil:
    """So many bytes to the backend are the request's head."""
    if client.record != NULL:
        client.record.heads_in = size


cdef inline void access_asked(client_t *client, uint64_t size) noexcept nogil:
    """What went to a backend until now was a question of ours. The request's own head, which goes
    to another one now, has so many bytes; 0: it goes nowhere."""
    if client.record != NULL:
        client.record.bytes_in = 0
        client.record.heads_in = size
        client.record.has_backend = client.record.has_backend and size == 0


cdef inline void access_head_out(client_t *client, uint64_t size) noexcept nogil:
    """So many bytes to the client are a head."""
    if client.record != NULL:
        client.record.heads_out += size


cdef inline void access_tunnel(client_t *client) noexcept nogil:
    """A 101 was passed on: what counts from now on are the tunnel's bytes."""
    access_ends(client, ENDED_TUNNEL)
    if client.record != NULL:
        client.record.bytes_in = client.record.bytes_out = 0
        client.record.heads_in = client.record.heads_out = 0
