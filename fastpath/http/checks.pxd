"""Requests that wait for Python to check their credentials, and the way there and back.

A worker asks through one ring and hears through another. A verdict is about credentials, which
their digest names, and not about a request: it is for all in this worker that wait for it, and
nobody minds when those who asked are gone. Bounded: who finds no room is turned away.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.http.filters.basic cimport CREDENTIALS_SIZE_MAX
from fastpath.http.filters.credentials cimport verdict_t
from fastpath.loop cimport endpoint_t, loop_t
from fastpath.memory.ring cimport ring_t
from fastpath.memory.slab cimport slab_t

cdef enum:
    CHECKS_MAX = 256            # requests of a worker that wait; a power of two
    CHECKS_PER_SOURCE = 32      # … of one client
    CHECK_MS = 5000             # a request waits no longer

cdef struct ask_t:              # to Python
    uint64_t digest[2]
    uint64_t users[2]           # of auth_t
    uint64_t source             # who asks, as a hash
    uint64_t asked_us
    uint16_t user_size
    uint16_t password_size
    uint8_t text[CREDENTIALS_SIZE_MAX]      # the one, a colon, the other

cdef struct told_t:             # from Python
    uint64_t digest[2]
    uint64_t verdict            # verdict_t

cdef struct check_t:            # a request that waits, or has heard
    endpoint_t *io              # the client's; borrowed
    check_t *next               # in checks_t
    check_t *previous
    uint64_t digest[2]
    uint64_t source
    uint64_t deadline_ms
    uint64_t route_born         # with `route_slot`, the route that it waits at
    uint16_t route_slot
    uint8_t verdict             # verdict_t

cdef struct checks_t:
    slab_t memory
    ring_t asks                 # of ask_t, for Python
    ring_t told                 # of told_t, from Python
    check_t *first

# FP_OK or FP_FULL: then checks_free is due, too.
cdef int checks_init(checks_t *self) noexcept nogil
cdef void checks_free(checks_t *self) noexcept nogil

# Whether somebody waits for a verdict on these credentials already.
cdef bint checks_has(const checks_t *self, const uint64_t *digest) noexcept nogil
# A place to wait at, zeroed, for who asks from there; NULL: there is none.
cdef check_t *checks_enter(checks_t *self, uint64_t source) noexcept nogil
cdef void checks_leave(checks_t *self, check_t *check) noexcept nogil

# Take what Python says, and call those who wait for it.
cdef void checks_hear(loop_t *loop, checks_t *self) noexcept nogil
